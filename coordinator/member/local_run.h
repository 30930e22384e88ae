// SPDX-License-Identifier: GPL-2.0-or-later
// The local life of a run in one member; hotsnap/member.h holds the contract, member/states.h the
// states.
//
// It stands between the coordinator and the machine. It decides on each step and its time; the
// machine carries the step out. At most one answer is owed at a time, so that two tasks never run
// at once, no task runs beside the cut, and an undo begins when nothing else is under way.
#ifndef HOTSNAP_MEMBER_LOCAL_RUN_H
#define HOTSNAP_MEMBER_LOCAL_RUN_H

#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "member/states.h"
#include "member/steps.h"
#include "member/work.h"
#include "network/mediator.h"

namespace hotsnap::member {

class LocalRun {
  public:
    // The error; nothing if all went well.
    using Fault = std::optional<std::string>;

    LocalRun(std::string name, network::Mediator &mediator, std::string boot_id)
        : name_(std::move(name)), mediator_(mediator), boot_id_(std::move(boot_id)) {}

    void work(LocalWork work);

    // Answers
    void begun(const Fault &fault);
    void precopied(const Precopied &result) { precopied_ = result; } // before task_done
    void task_done(hs_task task, const Fault &fault);
    void cut_done(const Fault &fault, Json pause);
    void report(const Fault &fault, Json report);
    void undone(const Fault &fault);
    void held(const Fault &fault);
    void switched(const Fault &fault, Json hold);
    void loaded(const Fault &fault, Json report);
    void started(const Fault &fault, Json report);

    // News
    void memory_done(const Fault &fault);
    void failed(const std::string &reason);
    void hold_ended(const std::string &reason);
    void red_frame();
    bool frame_received(); // whether steps are due
    void beat(const Progress &progress);

    std::optional<Step> next_step();

    State state() const { return state_; }
    bool busy() const { return state_ != State::idle; }
    bool aborting() const { return state_ == State::ending || state_ == State::undoing; }
    uint64_t ignored() const { return ignored_; }
    const std::optional<Json> &manifest() const { return manifest_; } // while it is published

  private:
    // The answer that the machine owes.
    enum class Owed : uint8_t {
        nothing,
        begun,
        task,
        cut,
        report,
        undone,
        loaded,
        started,
        held,
        switched
    };

    // The ordinary course
    void handle(PrepareWork &work);
    void handle(PrecopyWork &work);
    void handle(InstallWork &work);
    void handle(ListenWork &work);
    void handle(ArmWork &work);
    void handle(PaceWork &work);
    void handle(CutWork &work);
    void handle(ExpectWork &work);
    void handle(CloseChannelsWork &work);
    void handle(EndColoringWork &work);
    void handle(PublishWork &work);
    void handle(CommitWork &work);
    void handle(AbortWork &work);
    void handle(LoadWork &work);
    void handle(StartWork &work);
    void handle(FlushWork &work);
    void handle(HoldWork &work);
    void handle(SwitchWork &work);
    void task_succeeded(hs_task task);
    void begin_cut(const char *cause);
    void channels_fin();
    void record_if_ready();

    // Other ends
    void fail(const std::string &reason);
    void release_all();
    void release_requests();
    void undo();
    bool end_if_ending(); // after an answer that was waited for
    void abort_load();
    void forget(bool kept, bool in_doubt, const std::string &reason);

    bool legal(Input input); // counts an illegal one
    void ignore() { ignored_++; }
    // Gives the machine a step for which it owes an answer.
    void demand(Step step, Owed owed);
    void demand_task(hs_task task);
    bool settle_debt(Owed owed); // false, and counted, when this answer is not owed
    bool take_back_demand();     // of a step that is not taken yet; false when there is none
    bool is_unheard() const;     // a step that owes an answer is not taken yet
    void tell(LocalEvent event) { steps_.push_back(Tell{std::move(event)}); }

    const std::string name_;
    network::Mediator &mediator_;
    const std::string boot_id_;
    uint64_t ignored_ = 0;

    State state_ = State::idle;
    Owed owed_ = Owed::nothing;
    hs_task task_ = HS_TASK_PREPARE; // the one whose answer is owed, if any is
    std::deque<Step> steps_;         // not taken yet

    // The run; meaningless when idle.
    bool coloring_ = true;
    Precopied precopied_;
    std::string cut_cause_;
    struct { // must end before the channel can be written
        bool settle, memory, channels;
    } missing_ = {true, true, true};
    std::optional<Json> manifest_;
    std::string abort_reason_;
    std::string not_undone_;
};

} // namespace hotsnap::member
#endif
