// SPDX-License-Identifier: GPL-2.0-or-later
// The packet mediator of one member; hotsnap/mediator.h holds the contract.
#ifndef HOTSNAP_NETWORK_MEDIATOR_H
#define HOTSNAP_NETWORK_MEDIATOR_H

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hotsnap/mediator.h"
#include "network/channel_counts.h"
#include "network/channel_record.h"
#include "network/frame.h"
#include "network/hold_queue.h"
#include "network/member_table.h"

namespace hotsnap::network {

class Mediator {
  public:
    struct Nic {
        std::string name;
        Mac mac;
        bool present = true;
    };

    Mediator();

    uint32_t add_nic(std::string name, Mac mac);
    void remove_nic(uint32_t nic);
    const std::vector<Nic> &nics() const { return nics_; }

    bool prepare(uint64_t epoch, std::string_view self, std::vector<Member> members, bool coloring,
                 std::string &error);
    void start_coloring();
    bool armed(); // whether a cut is due
    void cut();
    PairCounts white_sent() const;
    bool expect(const PairCounts &expected, std::string &error);
    bool channels_complete() const { return closed_; }
    void close_channels();
    void end_coloring();
    void reset();

    // A frame of which `head` bytes are at hand; `copy` writes those behind them.
    struct Part {
        size_t head;
        hs_copy_rest copy;
        void *opaque;
    };

    hs_verdict frame(const hs_frame &frame, int64_t now_ns, uint8_t &source_octet) {
        return this->frame(frame, {frame.size, nullptr, nullptr}, now_ns, source_octet);
    }
    hs_verdict frame(const hs_frame &frame, const Part &part, int64_t now_ns,
                     uint8_t &source_octet);
    void undelivered(uint64_t frames) { stats_.dropped += frames; }
    bool next_released(hs_frame &frame);

    const ChannelRecord &record() const { return record_; }
    hs_mediator_stats stats() const;

  private:
    /*
     *   off --prepare--> installed --start_coloring--> white --cut--> red --end_coloring--> ended
     *
     * and reset from each to off. The member table outlives the epoch, for late colored frames.
     */
    enum class State : uint8_t { off, installed, white, red, ended };

    // A frame, the part at hand, and its parsed view.
    struct Input {
        const hs_frame &frame;
        const Part &part;
        const FrameView &view;
        // None when there is no memory for it.
        std::optional<std::vector<uint8_t>> copy(uint8_t source_octet) const;
    };

    hs_verdict from_guest(const Input &in, uint8_t &source_octet);
    hs_verdict to_guest(const Input &in, int64_t now_ns, uint8_t &source_octet);
    // Keeps the frame, or drops and counts it.
    void hold(HoldQueue &queue, const Input &in, uint8_t source_octet, bool ready);
    bool put(HoldQueue &queue, HeldFrame frame, bool ready);
    // Counts a frame to the guest. Returns whether it is channel state if delivered after our cut.
    bool classify(const MemberTable::Sighting &from, uint32_t nic, const FrameView &view);
    bool is_red(const MemberTable::Sighting &from) const; // of this epoch
    bool forces_cut(const MemberTable::Sighting &from) const;
    bool in_epoch() const {
        return state_ == State::installed || state_ == State::white || state_ == State::red;
    }
    uint32_t own_index(uint32_t mac) const { return mac - own_base_; }
    // The channel from that sender to that NIC of ours; none if the frame is for another NIC.
    std::optional<ChannelCounts::Channel> channel_of(const MemberTable::Sighting &from,
                                                     uint32_t nic, Mac destination) const;
    void save(uint32_t nic, size_t vnet_size, std::optional<std::vector<uint8_t>> data,
              int64_t time_ns);
    void check_complete();
    uint8_t former_octet(Mac source) const;

    std::vector<Nic> nics_;
    State state_ = State::off;
    uint64_t epoch_ = 0;
    uint32_t self_ = 0;     // index of this member in the table
    uint32_t own_base_ = 0; // index of its first MAC; the others follow
    bool coloring_ = true;
    MemberTable table_;
    // Tables of earlier epochs, the last first: a member left behind in one of them (it lost its
    // initiator, and does not know yet) still sends colored frames.
    std::deque<MemberTable> former_;
    ChannelCounts counts_;
    bool armed_ = false;     // a cut can be taken
    bool holding_ = false;   // a red frame came before our cut
    bool cut_told_ = false;  // and the caller was told to take it
    bool recording_ = false; // from our cut until the channels are closed
    bool closed_ = false;
    ChannelRecord record_;
    std::array<HoldQueue, 2> queues_; // by hs_direction
    std::vector<uint8_t> released_;
    hs_mediator_stats stats_{};
};

} // namespace hotsnap::network
#endif
