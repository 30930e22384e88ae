// SPDX-License-Identifier: GPL-2.0-or-later
// The disk of a simulated member: its guest writes, unless its requests are held.
#include "member.h"

namespace hotsnap::sim {

using member::LocalRun;

// A write is done at once, and all the world may know of it at once.
void Member::guest_writes() {
    if (!alive_ || stands_still() || (holds_ && !mutated(Mutation::deaf_hold))) {
        return;
    }
    std::vector<Write> &writes = world_.ledger.writes;
    writes.push_back({incarnation_, writes.size() + 1});
}

void Member::end_hold(const char *reason) {
    if (!holds_) {
        return;
    }
    trace(std::string("gives its requests free: ") + reason);
    holds_ = false;
    hold_++;
    // A main loop that stands still cannot do so. Its guest stands still as well.
    if (now() > held_until_us_ + 1000 && now() > stalled_until_us_ + 1000) {
        world_.ledger.still_held.push_back(name_ + " held its requests for too long");
    }
}

// Waits for requests in flight; the main loop does nothing else.
void Member::carry_out(const member::HoldRequests &step) {
    step_begins("hold");
    const LocalRun::Fault fault = chance("hold");
    const uint64_t drain_us = random_.chance(0.05) ? 100'000 : random_.between(5, 3000);
    held_until_us_ = now() + step.longest_us;
    holds_ = true;
    const uint64_t done_us = std::min(now() + drain_us, held_until_us_);
    main_loop_us_ = std::max(main_loop_us_, done_us);
    after(done_us - now(), [this, fault, hold = hold_] {
        step_ends();
        LocalRun::Fault error = fault;
        if (!error && now() >= held_until_us_) {
            error = "the drain took too long";
        }
        if (error) {
            end_hold("the drain failed");
        } else {
            // The timer is of the main loop: a main loop that stands still hears of it later.
            after(held_until_us_ - now(), [this, hold] {
                const uint64_t late_us = stalled_until_us_ > now() ? stalled_until_us_ - now() : 0;
                after(late_us, [this, hold] {
                    if (holds_ && hold_ == hold) {
                        end_hold("the timer fires");
                        if (!mutated(Mutation::late_switch)) {
                            post(5, [this] { local_.hold_ended("held for too long"); });
                        }
                    }
                });
            });
        }
        local_.held(error);
        take_steps();
        take_actions();
    });
}

void Member::carry_out(const member::SwitchDisks &) {
    step_begins("switch");
    LocalRun::Fault fault = chance("switch");
    const bool lasts = holds_ && now() < held_until_us_; // the timer may be late
    if (!fault && !lasts && !mutated(Mutation::late_switch)) {
        fault = "the hold has ended";
    }
    if (!fault) {
        run().switches[incarnation_] = world_.ledger.writes.size();
    }
    end_hold("the switch");
    answer_soon(500, [this, fault] {
        step_ends();
        local_.switched(fault, {{"begin_ns", clock_us() * 1000}, {"end_ns", clock_us() * 1000}});
    });
}

void Member::carry_out(const member::ReleaseRequests &) {
    end_hold("an abort, or a failure");
}

} // namespace hotsnap::sim
