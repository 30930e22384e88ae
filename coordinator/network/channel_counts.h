// SPDX-License-Identifier: GPL-2.0-or-later
// White segments by channel: by the NIC that sends them and the address that they are for. They
// tell a receiver when it has seen all segments sent before the cut. (Mattern's counting of
// messages, made per channel.)
#ifndef HOTSNAP_NETWORK_CHANNEL_COUNTS_H
#define HOTSNAP_NETWORK_CHANNEL_COUNTS_H

#include <cstdint>
#include <map>
#include <unordered_map>
#include <utility>

#include "network/mac.h"

namespace hotsnap::network {

// (own MAC of the sending NIC, destination MAC)
using Pair = std::pair<Mac, Mac>;
using PairCounts = std::map<Pair, uint64_t>;

// Counters of one member.
class ChannelCounts {
  public:
    void start() { *this = {}; }

    void count_sent(const Pair &channel, uint64_t segments) { sent_[channel] += segments; }
    const auto &sent() const { return sent_; }

    // `home`: the frame came to a NIC that sends for its destination; it is no flooded copy.
    void count_received(const Pair &channel, uint64_t segments, bool home) {
        update(channel, [=](Incoming &in) { (home ? in.received : in.stray) += segments; });
    }
    // Frames of a channel keep their order, so nothing white can follow.
    void saw_red(const Pair &channel) {
        update(channel, [](Incoming &in) { in.red = true; });
    }
    void expect(const Pair &channel, uint64_t segments) {
        update(channel, [segments](Incoming &in) {
            in.expected = segments;
            in.is_expected = true;
        });
    }
    void expect_given() { expecting_ = true; }
    bool expecting() const { return expecting_; }
    bool complete() const { return expecting_ && open_ == 0; }

    uint64_t lost() const {
        uint64_t lost = 0;
        for (const auto &[channel, in] : incoming_) {
            lost += in.expected > in.received ? in.expected - in.received : 0;
        }
        return lost;
    }

    // Of the channels that nothing was expected of: several NICs, or none, send for the
    // destination, and only a comparison of all members tells what is missing.
    PairCounts unexpected() const {
        PairCounts counts;
        for (const auto &[channel, in] : incoming_) {
            if (!in.is_expected && in.received + in.stray > 0) {
                counts[channel] = in.received > 0 ? in.received : in.stray;
            }
        }
        return counts;
    }

  private:
    struct Incoming {
        uint64_t received = 0;
        uint64_t stray = 0;
        uint64_t expected = 0;
        bool is_expected = false;
        bool red = false;

        bool open() const { return received < expected && !red; }
    };
    struct PairHash {
        size_t operator()(const Pair &pair) const {
            return static_cast<size_t>((pair.first.value() * 0x9e37'79b9'7f4a'7c15) ^
                                       (pair.second.value() * 0xc2b2'ae3d'27d4'eb4f));
        }
    };

    template <typename Change> void update(const Pair &channel, Change change) {
        Incoming &in = incoming_[channel];
        open_ -= in.open();
        change(in);
        open_ += in.open();
    }

    std::unordered_map<Pair, uint64_t, PairHash> sent_;
    std::unordered_map<Pair, Incoming, PairHash> incoming_;
    bool expecting_ = false;
    size_t open_ = 0; // channels that still miss white segments
};

} // namespace hotsnap::network
#endif
