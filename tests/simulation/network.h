// SPDX-License-Identifier: GPL-2.0-or-later
// The data plane: switches that only members join. Frames of a pair of ports keep their order;
// frames of different pairs keep none. Frames can be lost, flooded to all ports of their switch,
// and split into their segments.
#ifndef HOTSNAP_SIM_NETWORK_H
#define HOTSNAP_SIM_NETWORK_H

#include <functional>
#include <map>
#include <optional>
#include <string>
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

    Port add_port(const std::string &member, size_t a_switch, Mac mac, bool offload);
    // An address that is behind the port, too; maybe behind several: a virtual router's.
    void add_station(Port port, Mac mac) { ports_[port].stations.push_back(mac); }
    // Whether the port's switch has another port for it.
    bool has_port(Port from, Mac destination) const {
        return !candidates(from, destination).empty();
    }
    // The port that a frame for `destination` goes to, if there is just one.
    std::optional<Port> home(Port from, Mac destination) const;
    const std::string &member(Port port) const { return ports_[port].member; }
    // Without a receiver, frames for the port are lost, and excused.
    void set_receiver(Port port, Receiver receiver) { ports_[port].receiver = std::move(receiver); }
    void send(Port from, const Frame &frame);

  private:
    struct PortState {
        std::string member;
        size_t a_switch;
        Mac mac;
        bool offload;
        std::vector<Mac> stations = {};
        Receiver receiver = {};
    };

    std::vector<Port> candidates(Port from, Mac destination) const;

    void carry(Port from, Port to, const Frame &frame);

    const Config &config_;
    EventQueue &events_;
    Ledger &ledger_;
    Random random_;
    std::vector<PortState> ports_;
    std::map<std::pair<size_t, uint64_t>, Port> learned_; // (switch, address)
    std::map<std::pair<Port, Port>, uint64_t> last_us_;   // keeps the order of a pair
};

} // namespace hotsnap::sim
#endif
