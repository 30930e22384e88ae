// SPDX-License-Identifier: GPL-2.0-or-later
// A simulated cluster: members, the traffic between them, the commands of users, and faults.
#ifndef HOTSNAP_SIM_CLUSTER_H
#define HOTSNAP_SIM_CLUSTER_H

#include <memory>
#include <string>
#include <vector>

#include "config.h"
#include "control.h"
#include "event_queue.h"
#include "ledger.h"
#include "member.h"
#include "network.h"
#include "random.h"

namespace hotsnap::sim {

class Cluster {
  public:
    explicit Cluster(const Config &config);

    // Runs the whole story; the ledger is complete afterwards.
    void run();
    const Ledger &ledger() const { return ledger_; }
    const Config &config() const { return config_; } // with the seed's choices

  private:
    struct Home { // the part of a member that outlives its crash
        std::string name;
        std::vector<Nic> nics;
        bool forwards = false; // a switch
    };

    void build();
    void add_home(std::vector<size_t> switches, bool forwards);
    void place_stations(size_t switches);
    void boot(size_t index);
    void command();
    enum class Command : uint8_t { snapshot, barrier, restore };
    Command give_command(size_t leader);
    void cancel(); // cancels all commands
    void plan_fault();
    void plan_fault_in_a_state(Command command);
    void plan_stalls();
    void traffic();
    void send_one();
    void settle(uint64_t most_us); // until all members are idle
    bool idle() const;
    size_t pick_alive();

    Config config_;
    Random random_;
    Random traffic_random_;
    Ledger ledger_;
    EventQueue events_;
    Network network_;
    ControlPlane control_;
    std::vector<Home> homes_;
    std::vector<std::shared_ptr<Member>> members_; // as homes_; a crashed one stays, not alive
    std::function<void(Member &)> on_complete_;
    std::function<void(Member &, member::State)> on_state_;
    Incarnation next_incarnation_ = 0;
    bool talking_ = false;
    uint64_t command_ = 0;
    uint64_t tags_ = 0;
};

} // namespace hotsnap::sim
#endif
