// SPDX-License-Identifier: GPL-2.0-or-later
// The ordinary course of a snapshot, from the first work to the commit.
#include "member/local_run.h"

#include <utility>

namespace hotsnap::member {

namespace {

constexpr const char *busy_reason = "a snapshot or restore is in progress already; wait for it to "
                                    "end, or cancel it";

} // namespace

// Work

void LocalRun::work(LocalWork work) {
    static_assert(std::variant_size_v<LocalWork> == static_cast<size_t>(Input::memory_complete));
    if (legal(static_cast<Input>(work.index()))) {
        std::visit([this](auto &one) { handle(one); }, work);
    } else if (std::holds_alternative<PrepareWork>(work) ||
               std::holds_alternative<LoadWork>(work)) {
        // The coordinator knows of no run here. It will abort, which ends the run there is.
        tell(Failed{busy_reason});
    }
}

void LocalRun::handle(PrepareWork &work) {
    coloring_ = work.coloring;
    missing_ = {true, true, true};
    precopied_ = {};
    cut_cause_.clear();
    abort_reason_.clear();
    not_undone_.clear();
    state_ = State::beginning;
    demand(BeginSnapshot{std::move(work)}, Owed::begun);
}

void LocalRun::begun(const Fault &fault) {
    if (!settle_debt(Owed::begun)) {
        return;
    }
    if (!fault) {
        if (!end_if_ending() && state_ == State::beginning) {
            state_ = State::preparing;
            demand_task(HS_TASK_PREPARE);
        }
        return;
    }
    // Nothing was made, so nothing is to be undone.
    const State before = std::exchange(state_, State::idle);
    if (before == State::ending) {
        tell(Aborted{});
    } else if (before == State::beginning) {
        tell(Failed{*fault});
    }
}

void LocalRun::task_done(hs_task task, const Fault &fault) {
    if (owed_ != Owed::task || task_ != task || is_unheard()) {
        ignore();
        return;
    }
    owed_ = Owed::nothing;
    if (state_ == State::undoing) {
        not_undone_ = fault.value_or("");
        demand(UndoRest{}, Owed::undone);
    } else if (!end_if_ending() && state_ != State::failed) {
        if (fault) {
            fail(*fault);
        } else {
            task_succeeded(task);
        }
    }
}

void LocalRun::task_succeeded(hs_task task) {
    switch (task) {
    case HS_TASK_PREPARE: {
        Prepared prepared;
        prepared.nics = mediator_.list_nics();
        prepared.info["boot_id"] = boot_id_;
        state_ = State::prepared;
        tell(std::move(prepared));
        return;
    }
    case HS_TASK_PRECOPY:
        state_ = State::prepared;
        tell(precopied_);
        return;
    case HS_TASK_ARM:
        if (state_ == State::flushing) {
            state_ = State::flushed;
            tell(Flushed{});
            return;
        }
        state_ = State::armed;
        tell(Armed{});
        if (mediator_.armed()) { // a red frame that came earlier waits
            begin_cut("red-frame");
        }
        return;
    case HS_TASK_SETTLE:
        missing_.settle = false;
        record_if_ready();
        return;
    case HS_TASK_CHANNEL:
        state_ = State::reporting;
        demand(MakeReport{}, Owed::report);
        return;
    case HS_TASK_PUBLISH:
        manifest_.reset();
        state_ = State::published;
        tell(Published{});
        return;
    case HS_TASK_UNDO:
        return; // handled above
    }
}

void LocalRun::handle(PrecopyWork &) {
    state_ = State::precopying;
    demand_task(HS_TASK_PRECOPY);
}

// Every member learns every MAC before any member sends a color.
void LocalRun::handle(InstallWork &work) {
    std::string error;
    if (!mediator_.prepare(work.epoch, name_, std::move(work.members), coloring_, error)) {
        fail(error);
        return;
    }
    mediator_.probe();
    steps_.push_back(ReleaseFrames{});
    state_ = State::installed;
    tell(Installed{});
}

// All have sent their probes. Nothing is colored yet, so nothing is lost if colors cannot pass.
void LocalRun::handle(ListenWork &) {
    tell(Heard{mediator_.heard()});
}

/*
 * Coloring begins before memory is protected, and `armed` is reached after it. A red frame that
 * comes in between is forged, or its sender heard of our ARMED sooner than this state machine did.
 * The mediator holds it, and all frames after it, until our cut. A cut beside the task would find
 * memory half protected, so the cut is taken as soon as the task is done.
 */
void LocalRun::handle(ArmWork &) {
    mediator_.start_coloring();
    state_ = State::arming;
    demand_task(HS_TASK_ARM);
}

// Beside the cut, too: the machine sets it from any thread.
void LocalRun::handle(PaceWork &work) {
    steps_.push_back(Pace{work.finish_us});
}

// The transient snapshot, due at SNAPSHOT or forced by the first red frame.

void LocalRun::handle(CutWork &) {
    begin_cut("snapshot");
}

void LocalRun::red_frame() {
    if (legal(Input::red_frame)) {
        begin_cut("red-frame");
    }
}

void LocalRun::begin_cut(const char *cause) {
    state_ = State::cutting;
    cut_cause_ = cause;
    demand(TakeCut{cause}, Owed::cut);
}

void LocalRun::cut_done(const Fault &fault, Json pause) {
    if (!settle_debt(Owed::cut) || end_if_ending() || state_ != State::cutting) {
        return;
    }
    if (fault) {
        fail(*fault);
        return;
    }
    state_ = State::saving;
    mediator_.mark();
    tell(Cut{mediator_.white_sent(), mediator_.heard(), std::move(pause), cut_cause_});
    steps_.push_back(ReleaseFrames{});
    demand_task(HS_TASK_SETTLE);
}

/*
 * From the transient to the full snapshot: three activities go on side by side, and the channel is
 * written when all have ended. Its record stands still from the close of the channels on: a commit
 * does not come before FullFin, and an abort leaves the record alone (release_all).
 */

void LocalRun::memory_done(const Fault &fault) {
    if (fault) {
        failed(*fault);
    } else if (legal(Input::memory_complete)) {
        missing_.memory = false;
        record_if_ready();
    }
}

void LocalRun::handle(ExpectWork &work) {
    std::string error;
    if (!missing_.channels) {
        ignore();
    } else if (!mediator_.expect(work.counts, work.marks, error)) {
        fail(error);
    } else {
        frame_received();
    }
}

bool LocalRun::frame_received() {
    if (state_ == State::saving && missing_.channels && mediator_.channels_complete()) {
        channels_fin();
    }
    return !steps_.empty();
}

void LocalRun::handle(CloseChannelsWork &) {
    if (missing_.channels) { // else the last frame came just before this work
        mediator_.close_channels();
        channels_fin();
    }
}

void LocalRun::channels_fin() {
    missing_.channels = false;
    const hs_mediator_stats stats = mediator_.stats();
    tell(ChannelsFin{stats.recorded, stats.lost, stats.unmarked, mediator_.unexpected()});
    record_if_ready();
}

void LocalRun::record_if_ready() {
    if (state_ == State::saving && !missing_.settle && !missing_.memory && !missing_.channels) {
        state_ = State::recording;
        demand_task(HS_TASK_CHANNEL);
    }
}

void LocalRun::report(const Fault &fault, Json report) {
    if (!settle_debt(Owed::report) || end_if_ending() || state_ != State::reporting) {
        return;
    }
    if (fault) {
        fail(*fault);
        return;
    }
    state_ = State::complete;
    tell(FullFin{std::move(report)});
}

// This work comes when the channels of all members are closed, ours too. The record is not touched.
void LocalRun::handle(EndColoringWork &) {
    if (missing_.channels) {
        ignore();
        return;
    }
    mediator_.end_coloring();
    steps_.push_back(ReleaseFrames{});
}

void LocalRun::handle(PublishWork &work) {
    manifest_ = std::move(work.manifest);
    state_ = State::publishing;
    demand_task(HS_TASK_PUBLISH);
}

void LocalRun::beat(const Progress &progress) {
    if (!legal(Input::beat)) {
        return;
    }
    // Once this member's part is complete, no page is trapped, so none can make the VM wait.
    if (state_ != State::complete) {
        tell(Beat{});
    }
    if (state_ == State::precopying || (state_ >= State::saving && state_ <= State::complete)) {
        tell(progress);
    }
}

// Steps

std::optional<Step> LocalRun::next_step() {
    if (steps_.empty()) {
        return std::nullopt;
    }
    Step step = std::move(steps_.front());
    steps_.pop_front();
    return step;
}

void LocalRun::demand(Step step, Owed owed) {
    owed_ = owed;
    steps_.push_back(std::move(step));
}

void LocalRun::demand_task(hs_task task) {
    task_ = task;
    demand(RunTask{task}, Owed::task);
}

bool LocalRun::settle_debt(Owed owed) {
    if (owed_ != owed || is_unheard()) {
        ignore();
        return false;
    }
    owed_ = Owed::nothing;
    return true;
}

bool LocalRun::legal(Input input) {
    const Verdict verdict = judge(state_, input);
    ignored_ += verdict == Verdict::illegal;
    return verdict == Verdict::legal;
}

} // namespace hotsnap::member
