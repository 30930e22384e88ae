// SPDX-License-Identifier: GPL-2.0-or-later
// The background copy of a simulated member: it takes a random time, and ends at the instant that
// it was told if that is later.
#include <algorithm>

#include "member.h"

namespace hotsnap::sim {

void Member::copy() {
    const uint64_t least_us =
        random_.chance(0.3) ? random_.between(10, 2000) : random_.between(1000, 150'000);
    copies_till_us_ = now() + (random_.chance(0.1) ? 20 * least_us : least_us);
    copy_on();
}

void Member::copy_on() {
    constexpr uint64_t longest_step_us = 2000; // the instant may be moved at any time
    const uint64_t due_us = finish_us_ == 0 ? 0 : finish_us_ - clock_offset_us_;
    const bool can_end = now() >= copies_till_us_;
    if (can_end && (now() >= due_us || mutated(Mutation::deaf_copy))) {
        copy_ends(now() < due_us + longest_step_us);
        return;
    }
    const uint64_t next_us = can_end ? due_us : copies_till_us_;
    after_in_run(std::min(next_us - now(), longest_step_us), [this] { copy_on(); });
}

void Member::copy_ends(bool on_time) {
    copied_us_ = clock_us();
    run().copied[incarnation_] = {now(), on_time};
    const member::LocalRun::Fault fault = chance("write the image: no space left");
    post(5, [this, generation = generation_, fault] {
        if (generation_ == generation) {
            local_.memory_done(fault);
        }
    });
}

uint64_t Member::expected_us() const {
    if (copies_till_us_ == 0) {
        return 0; // it has not begun
    }
    return std::max(copies_till_us_ + clock_offset_us_, finish_us_);
}

// Any thread's work in the product: it is not delayed by the main loop.
void Member::carry_out(const member::Pace &step) {
    trace("is to end its copy at " + std::to_string(step.finish_us - clock_offset_us_));
    finish_us_ = step.finish_us;
    if (mutated(Mutation::foreign_clock)) {
        finish_us_ += clock_offset_us_ % 100'000;
    }
}

// As the manifest says it, in the true time: this member is the initiator.
void Member::note_finish() {
    const auto finish = manifest_.find("finish");
    if (finish == manifest_.end()) {
        return;
    }
    Run &r = run();
    r.finish_us = get_uint(*finish, "due_ns") / 1000 - clock_offset_us_;
    r.duration_us = get_uint(*finish, "duration_us");
    r.delay_us = get_uint(*finish, "delay_us");
    for (const Json &member : get_array(*finish, "members")) {
        r.clock_error_us[r.members[get_string(member, "name")]] =
            get_uint(member, "clock_error_us");
    }
}

} // namespace hotsnap::sim
