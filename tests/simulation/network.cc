// SPDX-License-Identifier: GPL-2.0-or-later
#include "network.h"

#include <algorithm>

namespace hotsnap::sim {

Network::Port Network::add_port(Mac mac, bool offload) {
    by_mac_[mac.value()] = ports_.size();
    ports_.push_back({mac, offload, nullptr});
    return ports_.size() - 1;
}

void Network::send(Port from, const Frame &frame) {
    if (frame.destination.is_group()) {
        for (Port to = 0; to < ports_.size(); to++) {
            if (to != from) {
                carry(from, to, frame);
            }
        }
        return;
    }
    const auto at = by_mac_.find(frame.destination.value());
    const bool flood = random_.chance(0.01); // the switch has forgotten the destination's port
    for (Port to = 0; to < ports_.size() && flood; to++) {
        if (to != from && (at == by_mac_.end() || to != at->second)) {
            carry(from, to, frame);
        }
    }
    if (at != by_mac_.end()) {
        carry(from, at->second, frame);
    }
}

void Network::carry(Port from, Port to, const Frame &frame) {
    const bool wanted = frame.destination == ports_[to].mac;
    if (frame.segments.size() > 1 && (!ports_[to].offload || random_.chance(0.3))) {
        for (const uint64_t segment : frame.segments) {
            carry(from, to, {frame.source, frame.destination, {segment}});
        }
        return;
    }
    if (random_.chance(config_.loss)) {
        for (const uint64_t segment : frame.segments) {
            ledger_.segments[segment].excused |= wanted;
        }
        return;
    }
    const uint64_t delay =
        random_.chance(0.05) ? random_.between(1, config_.transit_us) : random_.between(10, 200);
    uint64_t &last = last_us_[{from, to}];
    last = std::max(last, events_.now_us() + std::min(delay, config_.transit_us));
    events_.at(last, [this, to, wanted, frame] {
        if (ports_[to].receiver) {
            ports_[to].receiver(frame);
        } else if (wanted) {
            for (const uint64_t segment : frame.segments) {
                ledger_.segments[segment].excused = true;
            }
        }
    });
}

} // namespace hotsnap::sim
