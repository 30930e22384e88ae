// SPDX-License-Identifier: GPL-2.0-or-later
// The data plane: one switch. Frames of a pair of ports keep their order; frames of different pairs
// keep none. Frames can be lost, flooded to all ports, and split into their segments.
#ifndef HOTSNAP_SIM_NETWORK_H
#define HOTSNAP_SIM_NETWORK_H

#include <functional>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "config.h"
#include "event_queue.h"
#include "frames.h"
#include "ledger.h"
#include "random.h"

namespace hotsnap::sim {

class Network {
  public:
    using Port = size_t;
    using Receiver = std::function<void(const Frame &)>;

    Network(const Config &config, EventQueue &events, Ledger &ledger, Random random)
        : config_(config), events_(events), ledger_(ledger), random_(random) {}

    Port add_port(Mac mac, bool offload);
    // Without a receiver, frames for the port are lost, and excused.
    void set_receiver(Port port, Receiver receiver) { ports_[port].receiver = std::move(receiver); }
    void send(Port from, const Frame &frame);

  private:
    struct PortState {
        Mac mac;
        bool offload;
        Receiver receiver;
    };

    void carry(Port from, Port to, const Frame &frame);

    const Config &config_;
    EventQueue &events_;
    Ledger &ledger_;
    Random random_;
    std::vector<PortState> ports_;
    std::unordered_map<uint64_t, Port> by_mac_;
    std::map<std::pair<Port, Port>, uint64_t> last_us_; // keeps the order of a pair
};

} // namespace hotsnap::sim
#endif
