// SPDX-License-Identifier: GPL-2.0-or-later
// A member's part in a restore: load, wait for the others at the coordinator's barrier, start.
//
// All that can fail is done before the barrier, where no member runs yet. When a member fails after
// it, the members that run already are stopped: a part of the cluster must not run on without the
// rest.
#include "member/local_run.h"

namespace hotsnap::member {

void LocalRun::handle(LoadWork &work) {
    state_ = State::loading;
    demand(BeginLoad{std::move(work)}, Owed::loaded);
}

void LocalRun::loaded(const Fault &fault, Json report) {
    if (!settle_debt(Owed::loaded) || state_ != State::loading) {
        return;
    }
    if (fault) {
        fail(*fault);
        return;
    }
    state_ = State::loaded;
    tell(Loaded{std::move(report)});
}

void LocalRun::handle(StartWork &) {
    state_ = State::starting;
    demand(StartVm{}, Owed::started);
}

void LocalRun::started(const Fault &fault, Json report) {
    if (!settle_debt(Owed::started)) {
        return;
    }
    if (fault) {
        state_ = State::load_failed;
        tell(Failed{*fault});
        return;
    }
    state_ = State::running;
    tell(Started{std::move(report)});
}

// Waits for no answer: the machine gives up loading, or stops the VM, in the step itself.
void LocalRun::abort_load() {
    const bool unheard = take_back_demand();
    const bool started = state_ == State::running || (state_ == State::starting && !unheard);
    const bool begun = state_ != State::loading || !unheard;
    owed_ = Owed::nothing;
    if (started) {
        steps_.push_back(StopVm{});
    }
    if (begun && state_ != State::running) {
        steps_.push_back(EndLoad{});
    }
    state_ = State::idle;
    tell(Aborted{});
}

} // namespace hotsnap::member
