// SPDX-License-Identifier: GPL-2.0-or-later
// How a snapshot ends: committed, failed, or aborted and undone.
//
// An abort has three parts, so that the VM runs on even when the bundle's storage stands still:
//
//   release   At once, before all else: frames and disk requests flow. (Memory was released
//   earlier, by the
//             iothread; hs_work_abort_reason().)
//   wait      `ending`: the machine still owes an answer. The step under way notices the abort
//             and ends; nothing is undone beside it.
//   undo      `undoing`: first the task, which lets go of memory and removes files; then the main
//             loop's part, the disks. Last, the machine forgets the run and the coordinator gets
//             Aborted.
#include "member/local_run.h"

#include <algorithm>

namespace hotsnap::member {

namespace {

bool is_demand(const Step &step) {
    return std::holds_alternative<BeginSnapshot>(step) || std::holds_alternative<RunTask>(step) ||
           std::holds_alternative<TakeCut>(step) || std::holds_alternative<MakeReport>(step) ||
           std::holds_alternative<UndoRest>(step) || std::holds_alternative<BeginLoad>(step) ||
           std::holds_alternative<StartVm>(step) || std::holds_alternative<HoldRequests>(step) ||
           std::holds_alternative<SwitchDisks>(step);
}

} // namespace

bool LocalRun::is_unheard() const {
    return std::any_of(steps_.begin(), steps_.end(), is_demand);
}

bool LocalRun::take_back_demand() {
    const auto at = std::find_if(steps_.begin(), steps_.end(), is_demand);
    if (at == steps_.end()) {
        return false;
    }
    steps_.erase(at);
    owed_ = Owed::nothing;
    return true;
}

void LocalRun::handle(CommitWork &work) {
    if (state_ == State::running) { // a restore: nothing is left to do
        state_ = State::idle;
        return;
    }
    if (owed_ != Owed::nothing) { // `failed`, with a step under way: the run cannot be kept
        ignore();
        return;
    }
    mediator_.reset();
    steps_.push_back(ReleaseFrames{});
    forget(true, work.in_doubt, work.reason);
}

void LocalRun::failed(const std::string &reason) {
    if (legal(Input::failure)) {
        fail(reason);
    }
}

// Nothing is undone before the coordinator's abort. The coordinator may keep the run all the same:
// in doubt, when this member's part was complete.
void LocalRun::fail(const std::string &reason) {
    tell(Failed{reason});
    if (state_ == State::loading || state_ == State::loaded) {
        state_ = State::load_failed;
        return;
    }
    release_requests();
    const bool nothing_made = state_ == State::beginning && take_back_demand();
    if (state_ != State::beginning) {
        take_back_demand();
    }
    manifest_.reset();
    state_ = nothing_made ? State::idle : State::failed;
}

void LocalRun::handle(AbortWork &work) {
    if (state_ == State::idle) {
        tell(Aborted{}); // of a run that was refused here, or is over
        return;
    }
    if (state_ >= State::loading) {
        abort_load();
        return;
    }
    abort_reason_ = work.reason;
    release_all();
    if (take_back_demand() && state_ == State::beginning) {
        state_ = State::idle;
        tell(Aborted{});
        return;
    }
    state_ = State::ending;
    if (owed_ == Owed::nothing) {
        undo();
    }
}

/*
 * The end of coloring lets all frames flow, as the reset does, but does not touch the record: the
 * task reads it.
 */
void LocalRun::release_all() {
    if (owed_ == Owed::task && task_ == HS_TASK_CHANNEL) {
        mediator_.end_coloring();
    } else {
        mediator_.reset();
    }
    steps_.push_back(ReleaseFrames{});
    release_requests();
}

bool LocalRun::end_if_ending() {
    if (state_ != State::ending) {
        return false;
    }
    undo();
    return true;
}

void LocalRun::undo() {
    state_ = State::undoing;
    manifest_.reset();
    mediator_.reset(); // clears the record, too: no task reads it any more
    steps_.push_back(ReleaseFrames{});
    demand_task(HS_TASK_UNDO);
}

void LocalRun::undone(const Fault &fault) {
    if (!settle_debt(Owed::undone)) {
        return;
    }
    if (fault) {
        not_undone_ += (not_undone_.empty() ? "" : "; ") + *fault;
    }
    forget(false, false, abort_reason_);
    tell(Aborted{not_undone_});
}

void LocalRun::forget(bool kept, bool in_doubt, const std::string &reason) {
    manifest_.reset();
    state_ = State::idle;
    steps_.push_back(ForgetRun{kept, in_doubt, reason});
}

} // namespace hotsnap::member
