// SPDX-License-Identifier: GPL-2.0-or-later
// One simulated virtual machine: the real coordinator and the real mediator, a guest that sends and
// receives, and glue that does the local work as QEMU's does, in random time.
#ifndef HOTSNAP_SIM_MEMBER_H
#define HOTSNAP_SIM_MEMBER_H

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "config.h"
#include "control.h"
#include "event_queue.h"
#include "hotsnap/coordinator.h"
#include "ledger.h"
#include "network.h"
#include "network/mediator.h"
#include "random.h"

namespace hotsnap::sim {

struct Nic {
    Mac mac;
    size_t vnet_size;
    Network::Port port;
};

class Member : public std::enable_shared_from_this<Member> {
  public:
    struct World {
        const Config &config;
        EventQueue &events;
        Ledger &ledger;
        Network &network;
        ControlPlane &control;
        // Called when a member's part is complete, and it has just said so.
        std::function<void(Member &)> &on_complete;
    };

    Member(World world, std::string name, Incarnation incarnation, std::vector<Nic> nics,
           Random random);

    void start(); // listens, and plugs the NICs in
    void crash(); // nothing happens here any more

    // The user.
    bool initiate(bool restore, const std::string &request);
    void cancel();
    // Each local step fails from now on with this probability.
    void set_failure_chance(double p) { failure_chance_ = p; }

    // The guest sends, if it runs.
    void guest_sends(size_t nic, Mac destination, size_t segments);

    const std::string &name() const { return name_; }
    const std::vector<Nic> &nics() const { return nics_; }
    bool alive() const { return alive_; }
    bool leads() const { return leads_; }
    std::string why_not_idle() const; // empty when idle

  private:
    struct CoordinatorDeleter {
        void operator()(hs_coordinator *c) const { hs_coordinator_free(c); }
    };

    // Later, on this member's main loop, in order; not at all after a crash.
    void post(uint64_t delay_us, std::function<void()> work);
    // The same for work of the run that is on: not at all after its end.
    void post_in_run(uint64_t delay_us, std::function<void()> work);

    void take_actions();
    void act(const hs_action &action);
    void local(hs_local_kind kind, const Json &json = Json::object());
    bool fails(const char *step);

    void do_prepare(const Json &job);
    void do_install(const Json &job);
    void do_arm();
    void do_expect(const std::string &text);
    void do_publish(const std::string &text);
    void do_commit(const Json &job);
    void do_abort(const std::string &reason);
    void end_run(); // as after a commit or abort: nothing is pending, frames are let go

    void begin_cut(const char *cause);
    void cut_and_resume(const char *cause, uint64_t begin_us);
    void copy(uint64_t left_us);
    void report_channels();
    void report_full();

    void network_delivers(size_t nic, const Frame &frame);
    void to_guest(size_t nic, const Frame &frame);
    void guest_receives(size_t nic, const Frame &frame);
    void to_network(size_t nic, const Frame &frame);
    void release_frames();

    Run &run() { return world_.ledger.runs[run_]; }
    uint64_t now() const { return world_.events.now_us(); }
    bool mutated(Mutation m) const { return world_.config.mutation == m; }
    void trace(const std::string &line) const;

    World world_;
    const std::string name_;
    const Incarnation incarnation_;
    const std::vector<Nic> nics_;
    Random random_;
    std::unique_ptr<hs_coordinator, CoordinatorDeleter> coordinator_;
    Mediator mediator_;
    bool alive_ = false;
    bool leads_ = false;
    double failure_chance_ = 0;

    // The guest
    bool paused_ = false;
    uint64_t sequence_ = 0;
    std::deque<std::pair<size_t, Frame>> tap_; // what came while it was paused

    // The run
    std::string run_;
    uint64_t generation_ = 0; // changes when a run ends
    uint64_t main_loop_us_ = 0;
    uint64_t timer_us_ = UINT64_MAX;
    uint64_t epoch_ = 0;
    bool coloring_ = true;
    bool white_ = false;
    bool cutting_ = false; // or done
    bool cut_done_ = false;
    bool expecting_ = false;
    bool channels_done_ = false;
    bool copied_ = false;
    bool reported_ = false;
};

} // namespace hotsnap::sim
#endif
