// SPDX-License-Identifier: GPL-2.0-or-later
// The machine of a simulated member: carries out the steps of its local run, and may fail in each.
#include <algorithm>

#include "member.h"

namespace hotsnap::sim {

using member::LocalRun;
using member::State;

void Member::give_work(member::LocalWork work) {
    const State before = local_.state();
    const auto *commit = std::get_if<member::CommitWork>(&work);
    const auto *install = std::get_if<member::InstallWork>(&work);
    if (const auto *abort = std::get_if<member::AbortWork>(&work)) {
        trace("aborts in state " + std::string(to_string(before)) + ": " + abort->reason);
        world_.ledger.coverage.meet(before, Fault::abort);
        if (mutated(Mutation::move_record) && before == State::recording) {
            mediator_.reset();
        }
    }
    if (install && before == State::prepared) {
        std::string ignored;
        table_ = MemberTable::build(install->members, ignored).value_or(MemberTable());
        epoch_ = install->epoch;
        run().epoch = epoch_;
    }
    if (commit && before == State::running) {
        (commit->in_doubt ? run().in_doubt : run().committed).insert(incarnation_);
        end_run();
    }
    local_.work(std::move(work));
    white_ = local_.state() == State::arming || (white_ && !local_.aborting());
}

void Member::note_state() {
    const State state = local_.state();
    if (std::exchange(seen_, state) == state) {
        return;
    }
    trace(std::string("is ") + to_string(state));
    world_.ledger.coverage.reach(state);
    if (const auto hook = world_.on_state) { // a copy: the hook may remove itself
        hook(*this, state);
    }
}

void Member::take_steps() {
    if (std::exchange(in_steps_, true)) {
        return;
    }
    note_state();
    while (const std::optional<member::Step> step = local_.next_step()) {
        std::visit([this](const auto &one) { carry_out(one); }, *step);
        note_state();
    }
    in_steps_ = false;
}

LocalRun::Fault Member::chance(const char *step) {
    if (!random_.chance(failure_chance_)) {
        return std::nullopt;
    }
    trace(std::string("fails to ") + step);
    world_.ledger.coverage.meet(local_.state(), Fault::failure);
    return std::string("cannot ") + step;
}

// Answers at once, within the step, or later.
void Member::answer_soon(uint64_t most_us, std::function<void()> answer) {
    if (random_.chance(0.4)) {
        answer();
    } else {
        after(random_.between(5, most_us), [this, answer = std::move(answer)] { post(5, answer); });
    }
}

void Member::stall(uint64_t us) {
    trace("stands still for " + std::to_string(us) + " us");
    world_.ledger.coverage.meet(local_.state(), Fault::stall);
    stalled_until_us_ = std::max(stalled_until_us_, now() + us);
    post(us, [] {});
    after(stalled_until_us_ - now(), [this] { release_frames(); });
}

void Member::begin_run(const std::string &run_name, const std::string &initiator, bool restore) {
    run_ = run_name;
    Run &r = run();
    r.name = run_name;
    r.initiator = initiator;
    r.restore = restore;
    r.members[name_] = incarnation_;
}

void Member::end_run() {
    generation_++;
    run_.clear();
    white_ = false;
    finish_us_ = copies_till_us_ = copied_us_ = 0;
}

void Member::carry_out(const member::BeginSnapshot &step) {
    begin_run(step.job.run, step.job.initiator, false);
    answer_soon(2000, [this] {
        const LocalRun::Fault fault = chance("begin");
        if (fault) {
            end_run();
        } else {
            beat();
        }
        local_.begun(fault);
    });
}

void Member::beat() {
    after_in_run(50'000, [this] {
        post(5, [this, generation = generation_] {
            if (generation_ == generation) {
                local_.beat({1000, 2000, expected_us()});
                beat();
            }
        });
    });
}

void Member::step_begins(const std::string &name) {
    if (!under_way_.empty()) {
        world_.ledger.overlaps.push_back(name_ + " begins to " + name + " while it is to " +
                                         under_way_);
    }
    under_way_ = name;
}

constexpr const char *task_names[] = {"",        "prepare",      "copy before the cut",
                                      "arm",     "settle disks", "write the channel",
                                      "publish", "remove files"};

void Member::carry_out(const member::RunTask &step) {
    constexpr uint64_t longest_us[] = {0, 5000, 60'000, 5000, 60'000, 3000, 2000, 2000};
    step_begins(task_names[step.task]);
    if (step.task == HS_TASK_SETTLE) {
        copy();
    }
    if (step.task == HS_TASK_PUBLISH) {
        manifest_ = *local_.manifest();
    }
    if (step.task == HS_TASK_UNDO) {
        generation_++; // ends the copy, if it runs
    }
    after(random_.between(50, longest_us[step.task]),
          [this, task = step.task, record = recorded()] { task_ends(task, record); });
    if (mutated(Mutation::hasty_answer)) {
        post(5, [this, task = step.task] { local_.task_done(task, std::nullopt); });
    }
}

void Member::task_ends(hs_task task, const std::vector<std::pair<uint64_t, size_t>> &record) {
    const LocalRun::Fault fault = chance(task_names[task]);
    if (task == HS_TASK_CHANNEL && record != recorded()) {
        world_.ledger.moved.push_back(name_);
    }
    if (task == HS_TASK_PUBLISH && !fault) {
        publish();
    }
    step_ends();
    if (task == HS_TASK_PRECOPY) {
        local_.precopied({random_.chance(0.5), 1 << 20});
    }
    post(random_.between(5, 200), [this, task, fault] { local_.task_done(task, fault); });
}

// The transient snapshot. Mostly the main loop does nothing else meanwhile.
void Member::carry_out(const member::TakeCut &) {
    step_begins("cut");
    const uint64_t begin_us = now() + random_.between(5, 500);
    const uint64_t cut_us = begin_us + random_.between(200, 3000);
    const uint64_t end_us = cut_us + random_.between(50, 500);
    if (random_.chance(0.7)) {
        main_loop_us_ = std::max(main_loop_us_, end_us);
    }
    const LocalRun::Fault fault = chance("cut");
    after(begin_us - now(), [this] { paused_ = true; });
    after(cut_us - now(), [this, fault] {
        if (!fault) {
            mediator_.cut();
        }
        if (!fault && !local_.aborting()) {
            run().cuts[incarnation_] = {sequence_};
        }
        white_ = false;
    });
    after(end_us - now(), [this, fault, begin_us] {
        paused_ = false;
        step_ends();
        local_.cut_done(fault, {{"begin_ns", (begin_us + clock_offset_us_) * 1000},
                                {"end_ns", clock_us() * 1000}});
        take_steps();
        release_frames(); // also those that an abort released during the pause
        take_actions();
    });
}

void Member::carry_out(const member::ReleaseFrames &) {
    release_frames();
}

std::vector<std::pair<uint64_t, size_t>> Member::recorded() const {
    std::vector<std::pair<uint64_t, size_t>> recorded;
    for (const ChannelFrame &frame : mediator_.record().frames()) {
        const Frame read = from_bytes(frame.data.data(), frame.data.size(), frame.vnet_size);
        if (frame.from_guest || !listens(frame.nic, read.destination)) {
            continue; // no restored guest receives it
        }
        for (const uint64_t segment : read.segments) {
            recorded.push_back({segment, frame.nic});
        }
    }
    return recorded;
}

std::set<uint64_t> Member::held_back() const {
    std::set<uint64_t> held;
    for (const ChannelFrame &frame : mediator_.record().frames()) {
        if (frame.from_guest) {
            const Frame read = from_bytes(frame.data.data(), frame.data.size(), frame.vnet_size);
            held.insert(read.segments.begin(), read.segments.end());
        }
    }
    return held;
}

void Member::carry_out(const member::MakeReport &) {
    answer_soon(3000, [this] {
        if (!local_.aborting() && local_.state() == State::reporting) {
            run().recorded[incarnation_] = recorded();
            run().held_back[incarnation_] = held_back();
            auto &segments = run().recorded[incarnation_];
            if (mutated(Mutation::lose_record) && !segments.empty()) {
                segments.pop_back();
            }
        }
        local_.report(std::nullopt,
                      {{"memory", {{"file", name_ + "/state"}, {"copied_ns", copied_us_ * 1000}}}});
    });
}

// The bundle exists from here on, even if its initiator crashes before it reports so.
void Member::publish() {
    Run &r = run();
    r.published = true;
    for (const Json &member : get_array(manifest_, "members")) {
        r.named.push_back(get_string(member, "name"));
    }
    const Json &cut = get_object(manifest_, "cut");
    r.declared_lost = get_uint(cut, "lost");
    r.lost_between = get_uint(cut, "lost_between");
    r.unmarked = get_uint(cut, "unmarked");
    r.barrier = get_string(cut, "order", "") == "barrier";
    note_finish();
}

void Member::carry_out(const member::UndoRest &) {
    const LocalRun::Fault fault = chance("take the disks from their overlays");
    answer_soon(500, [this, fault] { local_.undone(fault); });
}

// Posts to the coordinator's thread, in order.
void Member::carry_out(const member::Tell &step) {
    if (std::holds_alternative<member::FullFin>(step.event)) {
        run().complete.insert(incarnation_);
    }
    if (std::holds_alternative<member::Aborted>(step.event) && mutated(Mutation::mute_abort)) {
        return;
    }
    iothread_us_ = std::max(iothread_us_, now() + random_.between(1, 100));
    after(iothread_us_ - now(), [this, event = step.event] {
        hs_coordinator_event(coordinator_.get(), new hs_event{event}, clock_us());
        take_actions();
        if (const auto hook = world_.on_complete;
            hook && std::holds_alternative<member::FullFin>(event)) {
            hook(*this);
        }
    });
}

void Member::carry_out(const member::ForgetRun &step) {
    Run &r = run();
    const bool undoes = !step.kept || (step.in_doubt && mutated(Mutation::abort_in_doubt));
    (undoes ? r.aborted : step.in_doubt ? r.in_doubt : r.committed).insert(incarnation_);
    end_run();
}

// Restore

void Member::carry_out(const member::BeginLoad &step) {
    begin_run(step.job.run, step.job.initiator, true);
    after_in_run(random_.between(1000, 100'000), [this] {
        const LocalRun::Fault fault = chance("load");
        post(5, [this, generation = generation_, fault] {
            if (generation_ == generation) {
                if (!fault) {
                    run().loaded.insert(incarnation_);
                }
                local_.loaded(fault, Json::object());
            }
        });
    });
}

void Member::carry_out(const member::StartVm &) {
    answer_soon(1000, [this, generation = generation_] {
        if (generation_ != generation) {
            return;
        }
        const LocalRun::Fault fault = chance("start");
        if (!fault) {
            run().started.insert(incarnation_);
        }
        local_.started(fault, {{"played", 0}, {"start_ns", now() * 1000}});
    });
}

void Member::carry_out(const member::StopVm &) {
    run().aborted.insert(incarnation_);
    end_run();
}

void Member::carry_out(const member::EndLoad &) {
    if (!run_.empty()) {
        run().aborted.insert(incarnation_);
        end_run();
    }
}

} // namespace hotsnap::sim
