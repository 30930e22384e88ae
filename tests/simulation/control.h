// SPDX-License-Identifier: GPL-2.0-or-later
// The control plane: connections between coordinators, as streams that keep order but come in
// pieces, can break, and can go silent.
#ifndef HOTSNAP_SIM_CONTROL_H
#define HOTSNAP_SIM_CONTROL_H

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "event_queue.h"
#include "hotsnap/coordinator.h"
#include "random.h"

namespace hotsnap::sim {

class ControlPlane {
  public:
    // The events of an end. None of them is called from within a call of ControlPlane.
    struct Endpoint {
        std::function<void(hs_link, bool inbound, const std::string &address)> up;
        std::function<void(hs_link, const std::string &address, const std::string &reason)> down;
        std::function<void(hs_link, const std::string &bytes)> bytes;
    };

    ControlPlane(EventQueue &events, Random random) : events_(events), random_(random) {}

    void attach(const std::string &name, Endpoint endpoint) { ends_[name] = std::move(endpoint); }
    void detach(const std::string &name); // the member crashed: its links break

    void connect(const std::string &from, const std::string &to);
    void send(const std::string &from, hs_link link, std::string bytes);
    void close(const std::string &from, hs_link link);

    // Breaks a random connection, if there is one.
    void break_one();
    // Breaks all connections of a member. It learns of it at once, the others may take seconds.
    void break_all_of(const std::string &name);
    // Holds back all traffic to and from a member, until `end_us`.
    void freeze(const std::string &name, uint64_t end_us) { frozen_until_us_[name] = end_us; }

  private:
    struct Link {
        std::string ends[2];          // the member that connected, and the other one
        uint64_t last_us[2] = {0, 0}; // last arrival at each end
        bool open[2] = {true, true};  // an end that has closed gets nothing any more
    };

    uint64_t arrival(const std::string &to, uint64_t &last_us);
    // Each end learns of it at its own time. If `at_once` is given, that end learns of it now, and
    // the other end late.
    void break_link(hs_link id, const std::string &reason, const std::string &at_once = "");
    std::vector<hs_link> links_of(const std::string &name) const;

    EventQueue &events_;
    Random random_;
    std::map<std::string, Endpoint> ends_;
    std::map<std::string, uint64_t> frozen_until_us_;
    std::map<hs_link, Link> links_;
    hs_link next_ = 1;
};

} // namespace hotsnap::sim
#endif
