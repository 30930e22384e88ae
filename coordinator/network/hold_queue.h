// SPDX-License-Identifier: GPL-2.0-or-later
// The held frames of one direction: a ready front, to be taken now, and a back that waits for the
// cut or for the end of coloring.
#ifndef HOTSNAP_NETWORK_HOLD_QUEUE_H
#define HOTSNAP_NETWORK_HOLD_QUEUE_H

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

namespace hotsnap::network {

// Why a frame waits.
enum class Waiting : uint8_t {
    turn,        // behind others, to keep the order
    cut,         // to the guest, until our cut
    group,       // from the guest, until coloring ends, as it cannot carry a color: for a group,
    source,      // with a source that has no alias,
    destination, // for an address that may be a member's
};

struct HeldFrame {
    uint32_t nic = 0;
    uint32_t queue = 0; // of the NIC
    size_t vnet_size = 0;
    std::vector<uint8_t> data; // virtio-net header and frame, colored or restored as due
    int64_t arrived_ns = 0;
    Waiting reason = Waiting::turn;
    bool channel_state = false; // becomes channel state if the cut comes before the release
};

class HoldQueue {
  public:
    explicit HoldQueue(size_t limit_bytes) : limit_bytes_(limit_bytes) {}

    // To be called before hold() and hold_ready().
    bool has_room(size_t size) const { return size <= limit_bytes_ - bytes_; }
    void hold(HeldFrame frame) {
        bytes_ += frame.data.size();
        frames_.push_back(std::move(frame));
    }
    // The frame goes behind the ready frames, before the waiting ones.
    void hold_ready(HeldFrame frame) {
        bytes_ += frame.data.size();
        frames_.insert(frames_.begin() + static_cast<std::ptrdiff_t>(ready_), std::move(frame));
        ready_++;
    }
    void release() { ready_ = frames_.size(); }
    bool has_ready() const { return ready_ > 0; }
    std::optional<HeldFrame> take() {
        if (ready_ == 0) {
            return std::nullopt;
        }
        HeldFrame frame = std::move(frames_.front());
        frames_.pop_front();
        ready_--;
        bytes_ -= frame.data.size();
        return frame;
    }
    void remove_nic(uint32_t nic) {
        std::deque<HeldFrame> kept;
        size_t ready = 0;
        for (size_t i = 0; i < frames_.size(); i++) {
            if (frames_[i].nic == nic) {
                bytes_ -= frames_[i].data.size();
                continue;
            }
            ready += i < ready_;
            kept.push_back(std::move(frames_[i]));
        }
        frames_ = std::move(kept);
        ready_ = ready;
    }
    std::deque<HeldFrame> &frames() { return frames_; }

  private:
    std::deque<HeldFrame> frames_;
    size_t ready_ = 0; // number of ready frames at the front
    size_t bytes_ = 0;
    size_t limit_bytes_;
};

} // namespace hotsnap::network
#endif
