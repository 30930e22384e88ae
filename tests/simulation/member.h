// SPDX-License-Identifier: GPL-2.0-or-later
// One simulated virtual machine: the real coordinator, local run and mediator, a guest that sends
// and receives, and a machine that carries out the steps as QEMU does, in random time.
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
#include "member/handles.h"
#include "member/local_run.h"
#include "network.h"
#include "network/mediator.h"
#include "random.h"

namespace hotsnap::sim {

struct Nic {
    Mac mac;
    size_t vnet_size;
    Network::Port port;
    std::vector<Mac> stations = {}; // other addresses that the guest sends and receives for here
    size_t a_switch = 0;
};

class Member : public std::enable_shared_from_this<Member> {
  public:
    struct World {
        const Config &config;
        EventQueue &events;
        Ledger &ledger;
        Network &network;
        ControlPlane &control;
        // Called when a member has just reported that its part is complete.
        std::function<void(Member &)> &on_complete;
        // Called when a member's local run has reached another state.
        std::function<void(Member &, member::State)> &on_state;
    };

    // `forwards`: the guest is a switch between its NICs.
    Member(World world, std::string name, Incarnation incarnation, std::vector<Nic> nics,
           bool forwards, Random random);

    void start(); // listens, and plugs the NICs in
    void crash(); // the member does nothing any more

    // Commands of the user.
    bool initiate(bool restore, const std::string &request);
    void cancel();
    void set_duration(uint64_t duration_us);
    // Each local step fails from now on with this probability.
    void set_failure_chance(double p) { failure_chance_ = p; }
    // The main loop stands still, and the VM with it; the coordinator's thread does not.
    void stall(uint64_t us);
    // A frame with the red color that no member sent.
    void receive_forged(Mac source);

    // The guest sends, if it runs.
    void guest_writes(); // to its disk, if it runs and no request is held
    void guest_sends(size_t nic, Mac source, Mac destination, size_t segments);

    const std::string &name() const { return name_; }
    const std::vector<Nic> &nics() const { return nics_; }
    bool alive() const { return alive_; }
    bool leads() const { return leads_; }
    std::string why_not_idle() const; // empty when idle

  private:
    struct CoordinatorDeleter {
        void operator()(hs_coordinator *c) const { hs_coordinator_free(c); }
    };

    // Does `work` later, on this member's main loop, in order; never after a crash.
    void post(uint64_t delay_us, std::function<void()> work);
    // Does `work` after that time, in a thread of its own; never after a crash.
    void after(uint64_t delay_us, std::function<void()> work);
    // The same for work of the present run: never after the run's end.
    void after_in_run(uint64_t delay_us, std::function<void()> work);

    void take_actions();
    void act(const hs_action &action);
    void give_work(member::LocalWork work);

    // The machine: carries out the steps of the local run, each at a random time or at once.
    void take_steps();
    void note_state();
    // Returns how this step fails, or nothing if it succeeds.
    member::LocalRun::Fault chance(const char *step);
    void answer_soon(uint64_t most_us, std::function<void()> answer);
    void carry_out(const member::BeginSnapshot &step);
    void carry_out(const member::RunTask &step);
    void carry_out(const member::TakeCut &step);
    void carry_out(const member::Pace &step);
    void carry_out(const member::ReleaseFrames &step);
    void carry_out(const member::MakeReport &step);
    void carry_out(const member::UndoRest &step);
    void carry_out(const member::Tell &step);
    void carry_out(const member::ForgetRun &step);
    void carry_out(const member::BeginLoad &step);
    void carry_out(const member::StartVm &step);
    void carry_out(const member::StopVm &step);
    void carry_out(const member::EndLoad &step);
    void carry_out(const member::HoldRequests &step);
    void carry_out(const member::SwitchDisks &step);
    void carry_out(const member::ReleaseRequests &step);
    void end_hold(const char *reason);
    void step_begins(const std::string &name);
    void step_ends() { under_way_.clear(); }
    void task_ends(hs_task task, const std::vector<std::pair<uint64_t, size_t>> &record);
    void begin_run(const std::string &run, const std::string &initiator, bool restore);
    void end_run();
    void copy();
    void copy_on();
    void copy_ends(bool on_time);
    uint64_t expected_us() const;
    void note_finish();
    void beat();
    void publish();
    std::vector<std::pair<uint64_t, size_t>> recorded() const;
    std::set<uint64_t> held_back() const;
    bool stands_still() const { return paused_ || now() < stalled_until_us_; }

    void network_delivers(size_t nic, const Frame &frame);
    void to_guest(size_t nic, const Frame &frame);
    void guest_receives(size_t nic, const Frame &frame);
    bool listens(size_t nic, Mac destination) const;
    void forward(size_t nic, const Frame &frame);
    void to_network(size_t nic, const Frame &frame);
    void release_frames();

    Run &run() { return world_.ledger.runs[run_]; }
    uint64_t now() const { return world_.events.now_us(); }
    uint64_t clock_us() const { return now() + clock_offset_us_; } // as this member sees it
    bool mutated(Mutation m) const { return world_.config.mutation == m; }
    void trace(const std::string &line) const;

    World world_;
    const std::string name_;
    const Incarnation incarnation_;
    const std::vector<Nic> nics_;
    const bool forwards_;
    Random random_;
    const uint64_t clock_offset_us_;
    std::unique_ptr<hs_coordinator, CoordinatorDeleter> coordinator_;
    Mediator mediator_;
    member::LocalRun local_;
    bool alive_ = false;
    bool leads_ = false;
    double failure_chance_ = 0;

    // The guest
    bool paused_ = false;
    uint64_t sequence_ = 0;
    std::deque<std::pair<size_t, Frame>> tap_; // frames that came while it stood still

    // Its disk
    bool holds_ = false;
    uint64_t held_until_us_ = 0; // by the true time
    uint64_t hold_ = 0;          // changes with each hold

    // The run
    std::string run_;
    uint64_t generation_ = 0; // changes when a run ends
    uint64_t main_loop_us_ = 0;
    uint64_t iothread_us_ = 0;
    uint64_t stalled_until_us_ = 0;
    uint64_t timer_us_ = UINT64_MAX;
    uint64_t epoch_ = 0;
    bool white_ = false;
    uint64_t finish_us_ = 0;      // the copy is to end then, by our clock; 0: as soon as it can
    uint64_t copies_till_us_ = 0; // it can end then, by the true time; 0: it does not run
    uint64_t copied_us_ = 0;      // it ended then, by our clock
    MemberTable table_;           // of the epoch, to forge colors with
    bool in_steps_ = false;
    Json manifest_;                            // being published
    std::string under_way_;                    // the task or the cut under way
    member::State seen_ = member::State::idle; // the state that was noted last
};

} // namespace hotsnap::sim
#endif
