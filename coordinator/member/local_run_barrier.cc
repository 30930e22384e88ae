// SPDX-License-Identifier: GPL-2.0-or-later
// A member's part in a barrier, from `prepared` to `saving`: its disk requests are held until all
// members hold theirs, and go on after the switch. coordinator/barrier_run.h has the argument.
//
// The member does not rely on anybody to end the hold. The machine has a timer, and ends the hold
// in the thread that also switches the disks. So one of the two comes first:
//
//   the switch       The machine's timer finds nothing to end. hold_ended() is late.
//   the timer        hold_ended() leaves `held`, and a SwitchWork that comes later is not done.
//   When
//                    the step is on its way already, the machine finds the hold ended, and answers
//                    with an error.
//
// So `switched` without an error means: held without a gap, from before `held` until after the
// switch.
#include "member/local_run.h"

#include <utility>

namespace hotsnap::member {

// The mediator is not asked: frames are not colored, and flow all the time.
void LocalRun::handle(FlushWork &) {
    state_ = State::flushing;
    demand_task(HS_TASK_ARM);
}

void LocalRun::handle(HoldWork &work) {
    state_ = State::holding;
    demand(HoldRequests{work.longest_us}, Owed::held);
}

// After an error nothing is held.
void LocalRun::held(const Fault &fault) {
    if (!settle_debt(Owed::held)) {
        return;
    }
    if (!fault && state_ != State::holding) { // aborted, or failed, meanwhile
        steps_.push_back(ReleaseRequests{});
    }
    if (end_if_ending() || state_ != State::holding) {
        return;
    }
    if (fault) {
        fail(*fault);
        return;
    }
    state_ = State::held;
    tell(Held{});
}

void LocalRun::hold_ended(const std::string &reason) {
    if (legal(Input::hold_ended)) {
        fail(reason);
    }
}

void LocalRun::handle(SwitchWork &) {
    state_ = State::switching;
    demand(SwitchDisks{}, Owed::switched);
}

// Nothing is held any more, be it after an error.
void LocalRun::switched(const Fault &fault, Json hold) {
    if (!settle_debt(Owed::switched) || end_if_ending() || state_ != State::switching) {
        return;
    }
    if (fault) {
        fail(*fault);
        return;
    }
    state_ = State::saving;
    missing_.channels = false; // there are none
    tell(Switched{std::move(hold)});
    demand_task(HS_TASK_SETTLE);
}

// A switch that has not been taken is taken back by the caller; one that has ends the hold itself.
void LocalRun::release_requests() {
    if (state_ == State::held || (owed_ == Owed::switched && is_unheard())) {
        steps_.push_back(ReleaseRequests{});
    }
}

} // namespace hotsnap::member
