// SPDX-License-Identifier: GPL-2.0-or-later
#include "network.h"

#include <algorithm>

namespace hotsnap::sim {

Network::Port Network::add_port(const std::string &member, size_t a_switch, Mac mac, bool offload) {
    ports_.push_back({member, a_switch, mac, offload});
    return ports_.size() - 1;
}

std::vector<Network::Port> Network::candidates(Port from, Mac destination) const {
    std::vector<Port> ports;
    for (Port to = 0; to < ports_.size(); to++) {
        const PortState &port = ports_[to];
        const bool reaches = port.mac == destination ||
                             std::find(port.stations.begin(), port.stations.end(), destination) !=
                                 port.stations.end();
        if (to != from && port.a_switch == ports_[from].a_switch && reaches) {
            ports.push_back(to);
        }
    }
    return ports;
}

std::optional<Network::Port> Network::home(Port from, Mac destination) const {
    const std::vector<Port> ports = candidates(from, destination);
    return ports.size() == 1 ? std::optional(ports.front()) : std::nullopt;
}

void Network::send(Port from, const Frame &frame) {
    const std::vector<Port> to =
        frame.destination.is_group() ? std::vector<Port>() : candidates(from, frame.destination);
    const size_t a_switch = ports_[from].a_switch;
    learned_[{a_switch, frame.source.value()}] = from;
    const auto learned = learned_.find({a_switch, frame.destination.value()});
    const bool known =
        learned != learned_.end() && std::count(to.begin(), to.end(), learned->second);
    // Else the switch has forgotten the destination's port, or never knew it.
    const bool flood = !known || random_.chance(0.01);
    const Port chosen = known ? learned->second : from;
    for (Port port = 0; port < ports_.size() && flood; port++) {
        if (port != from && port != chosen && ports_[port].a_switch == a_switch) {
            carry(from, port, frame);
        }
    }
    if (chosen != from) {
        carry(from, chosen, frame);
    }
}

void Network::carry(Port from, Port to, const Frame &frame) {
    const auto excuse = [this, to](const Frame &lost) {
        for (const uint64_t segment : lost.segments) {
            ledger_.segments[segment].excused |= ledger_.segments[segment].to == ports_[to].member;
        }
    };
    if (frame.segments.size() > 1 && (!ports_[to].offload || random_.chance(0.3))) {
        for (const uint64_t segment : frame.segments) {
            carry(from, to, {frame.source, frame.destination, {segment}, {}});
        }
        return;
    }
    if (random_.chance(config_.loss)) {
        excuse(frame);
        return;
    }
    const uint64_t delay =
        random_.chance(0.05) ? random_.between(1, config_.transit_us) : random_.between(10, 200);
    uint64_t &last = last_us_[{from, to}];
    last = std::max(last, events_.now_us() + std::min(delay, config_.transit_us));
    events_.at(last, [this, to, frame, excuse] {
        if (ports_[to].receiver) {
            ports_[to].receiver(frame);
        } else {
            excuse(frame);
        }
    });
}

} // namespace hotsnap::sim
