// SPDX-License-Identifier: GPL-2.0-or-later
// White segments by channel, that is by ordered pair of MACs. They tell a receiver when it has
// seen all segments sent before the cut. (Mattern's counting of messages, made per channel.)
#ifndef HOTSNAP_NETWORK_CHANNEL_COUNTS_H
#define HOTSNAP_NETWORK_CHANNEL_COUNTS_H

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "network/mac.h"

namespace hotsnap::network {

using PairCounts = std::map<std::pair<Mac, Mac>, uint64_t>; // (source, destination)

// Counters of one member, dense: own MACs times all MACs.
class ChannelCounts {
  public:
    struct Channel {
        uint32_t own;   // index among our MACs
        uint32_t other; // index of the other side's MAC in the member table
    };

    void start(size_t own_macs, size_t all_macs) {
        width_ = all_macs;
        sent_.assign(own_macs * all_macs, 0);
        incoming_.assign(own_macs * all_macs, {});
        expecting_ = false;
        open_ = 0;
    }

    void count_sent(Channel c, uint64_t segments) { sent_[at(c)] += segments; }
    uint64_t sent(Channel c) const { return sent_[at(c)]; }

    void count_received(Channel c, uint64_t segments) {
        update(c, [segments](Incoming &in) { in.received += segments; });
    }
    // Frames of a channel keep their order, so nothing white can follow.
    void saw_red(Channel c) {
        update(c, [](Incoming &in) { in.red = true; });
    }
    void expect(Channel c, uint64_t segments) {
        update(c, [segments](Incoming &in) { in.expected = segments; });
    }
    void expect_given() { expecting_ = true; }
    bool expecting() const { return expecting_; }
    bool complete() const { return expecting_ && open_ == 0; }

    uint64_t lost() const {
        uint64_t lost = 0;
        for (const Incoming &in : incoming_) {
            lost += in.expected > in.received ? in.expected - in.received : 0;
        }
        return lost;
    }

  private:
    struct Incoming {
        uint64_t received = 0;
        uint64_t expected = 0;
        bool red = false;

        bool open() const { return received < expected && !red; }
    };

    size_t at(Channel c) const { return c.own * width_ + c.other; }
    template <typename Change> void update(Channel c, Change change) {
        Incoming &in = incoming_[at(c)];
        open_ -= in.open();
        change(in);
        open_ += in.open();
    }

    size_t width_ = 0;
    std::vector<uint64_t> sent_;
    std::vector<Incoming> incoming_;
    bool expecting_ = false;
    size_t open_ = 0; // channels that still miss white segments
};

} // namespace hotsnap::network
#endif
