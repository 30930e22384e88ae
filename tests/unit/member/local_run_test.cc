// SPDX-License-Identifier: GPL-2.0-or-later
// The ordinary course of a run, and the inputs that each state refuses.
#include <algorithm>

#include "machine.h"

namespace hotsnap::member {
namespace {

TEST(LocalRun, OrdinaryWayOfASnapshot) {
    Machine m;
    m.work(prepare_work());
    EXPECT_EQ(m.take(), (Log{"begin"}));
    m.answer();
    EXPECT_EQ(m.take(), (Log{"task prepare"}));
    m.answer();
    EXPECT_EQ(m.take(), (Log{"tell prepared"}));
    const auto &prepared = std::get<Prepared>(m.events.back());
    ASSERT_EQ(prepared.nics.size(), 1u);
    EXPECT_EQ(prepared.nics[0].name, "net0");
    EXPECT_EQ(prepared.info["boot_id"], "boot-1");

    m.work(Machine::table());
    EXPECT_EQ(m.take(), (Log{"release", "tell installed"}));
    m.work(ListenWork{});
    EXPECT_EQ(m.take(), (Log{"tell heard"}));
    m.work(ArmWork{});
    EXPECT_EQ(m.take(), (Log{"task arm"}));
    m.answer();
    EXPECT_EQ(m.take(), (Log{"tell armed"}));

    m.work(CutWork{});
    EXPECT_EQ(m.take(), (Log{"cut for snapshot"}));
    m.answer();
    EXPECT_EQ(m.take(), (Log{"tell cut", "release", "task settle"}));
    EXPECT_EQ(std::get<Cut>(m.events.back()).cause, "snapshot");
    m.answer();
    m.run.memory_done(std::nullopt);
    EXPECT_EQ(m.take(), Log{});
    m.work(ExpectWork{{{{Machine::mac_a, Machine::mac_b}, 1}}, {}});
    EXPECT_EQ(m.take(), Log{});
    EXPECT_EQ(m.receive(Machine::white), HS_PASS);
    m.run.frame_received();
    EXPECT_EQ(m.take(), (Log{"tell channels-fin", "task channel"}));
    EXPECT_EQ(std::get<ChannelsFin>(m.events.back()).recorded, 1u);
    m.work(EndColoringWork{});
    EXPECT_EQ(m.take(), (Log{"release"}));
    m.answer();
    EXPECT_EQ(m.take(), (Log{"report"}));
    m.answer();
    EXPECT_EQ(m.take(), (Log{"tell full-fin"}));

    m.work(PublishWork{{{"tag", "t"}}});
    EXPECT_EQ(m.take(), (Log{"task publish"}));
    EXPECT_EQ((*m.run.manifest())["tag"], "t");
    m.answer();
    EXPECT_EQ(m.take(), (Log{"tell published"}));
    m.work(CommitWork{});
    EXPECT_EQ(m.take(), (Log{"release", "forget kept"}));
    EXPECT_FALSE(m.run.busy());
    EXPECT_EQ(m.run.ignored(), 0u);
}

TEST(LocalRun, MemoryIsCopiedBeforeTheTableComes) {
    Machine m;
    m.go_to(State::prepared);
    m.work(PrecopyWork{});
    EXPECT_EQ(m.take(), (Log{"task precopy"}));
    m.work(Machine::table()); // not now
    EXPECT_EQ(m.run.ignored(), 1u);
    m.run.precopied({false, 4096});
    EXPECT_EQ(m.take(), Log{});
    m.answer();
    EXPECT_EQ(m.take(), (Log{"tell precopied"}));
    EXPECT_FALSE(std::get<Precopied>(m.events.back()).converged);
    EXPECT_EQ(std::get<Precopied>(m.events.back()).left, 4096u);
    EXPECT_EQ(m.run.state(), State::prepared);
    m.work(Machine::table());
    EXPECT_EQ(m.take(), (Log{"release", "tell installed"}));
}

TEST(LocalRun, OrdinaryWayOfARestore) {
    Machine m;
    m.work(load_work());
    EXPECT_EQ(m.take(), (Log{"load"}));
    m.answer();
    EXPECT_EQ(m.take(), (Log{"tell loaded"}));
    m.work(StartWork{});
    EXPECT_EQ(m.take(), (Log{"start"}));
    m.answer();
    EXPECT_EQ(m.take(), (Log{"tell started"}));
    m.work(CommitWork{});
    EXPECT_EQ(m.take(), Log{});
    EXPECT_FALSE(m.run.busy());
}

// Settle, memory and channels end in any order; the channel is written after the last one.
TEST(LocalRun, TheChannelIsWrittenAfterAllThree) {
    std::vector<int> order = {0, 1, 2};
    do {
        Machine m;
        m.go_to(State::saving);
        for (size_t i = 0; i < order.size(); i++) {
            EXPECT_EQ(m.count("task channel"), 0u);
            if (order[i] == 0) {
                m.answer();
            } else if (order[i] == 1) {
                m.run.memory_done(std::nullopt);
            } else {
                m.work(CloseChannelsWork{});
            }
            m.take();
        }
        EXPECT_EQ(m.run.state(), State::recording);
        EXPECT_EQ(m.count("task channel"), 1u);
        EXPECT_EQ(m.count("tell channels-fin"), 1u);
    } while (std::next_permutation(order.begin(), order.end()));
}

TEST(LocalRun, RedFrameForcesTheCutOnceArmed) {
    Machine m;
    m.go_to(State::armed);
    EXPECT_EQ(m.receive(Machine::red), HS_HOLD_AND_CUT);
    m.run.red_frame();
    EXPECT_EQ(m.take(), (Log{"cut for red-frame"}));
    m.work(CutWork{}); // SNAPSHOT finds the cut under way
    m.answer();
    m.take();
    m.work(CutWork{}); // or done
    m.take();
    EXPECT_EQ(m.count("tell cut"), 1u);
    EXPECT_EQ(std::get<Cut>(m.events.back()).cause, "red-frame");
    EXPECT_EQ(m.frames_held, 0u);
    EXPECT_EQ(m.run.ignored(), 0u);
}

// A red frame, forged before this member is armed, is held until the cut and has no other effect
// before.
TEST(LocalRun, RedFrameBeforeArmedForcesTheCutThen) {
    for (const State early : {State::idle, State::preparing, State::installed, State::arming}) {
        SCOPED_TRACE(to_string(early));
        Machine m;
        m.go_to(early);
        const hs_verdict verdict = m.receive(Machine::red);
        const bool in_run = early == State::installed || early == State::arming;
        EXPECT_EQ(verdict, in_run ? HS_HOLD : HS_PASS);
        m.run.red_frame();
        EXPECT_EQ(m.take(), Log{});
        EXPECT_EQ(m.run.state(), early);
        if (early == State::arming) {
            m.answer();
            EXPECT_EQ(m.take(), (Log{"tell armed", "cut for red-frame"}));
            m.work(CutWork{});
            EXPECT_EQ(m.take(), Log{}) << "one cut in a run";
            m.answer();
            m.take();
            EXPECT_EQ(m.frames_held, 0u);
        }
    }
}

// The instant is passed on beside the cut and the copy, until the copy has ended.
TEST(LocalRun, TheFinishOfTheCopyIsPassedOn) {
    for (const State state : all_states) {
        SCOPED_TRACE(to_string(state));
        Machine m;
        m.go_to(state);
        m.run.work(PaceWork{7'000});
        const std::optional<Step> step = m.run.next_step();
        const bool barrier = state >= State::flushing && state <= State::switching;
        const bool due = state >= State::installed && state <= State::saving && !barrier;
        ASSERT_EQ(step.has_value(), due);
        if (due) {
            EXPECT_EQ(std::get<Pace>(*step).finish_us, 7'000u);
        }
    }
}

LocalWork work_number(size_t index) {
    const std::vector<LocalWork> all = {
        prepare_work(), PrecopyWork{}, Machine::table(), ListenWork{},        ArmWork{},
        PaceWork{7},    CutWork{},     ExpectWork{},     CloseChannelsWork{}, EndColoringWork{},
        PublishWork{},  CommitWork{},  AbortWork{"x"},   load_work(),         StartWork{},
        FlushWork{},    HoldWork{5},   SwitchWork{}};
    return all[index];
}

TEST(LocalRun, WhatIsIllegalIsCountedAndChangesNothing) {
    size_t tried = 0;
    for (const State state : all_states) {
        for (size_t i = 0; i < std::variant_size_v<LocalWork>; i++) {
            const Verdict verdict = judge(state, static_cast<Input>(i));
            if (verdict == Verdict::legal) {
                continue;
            }
            SCOPED_TRACE(std::string(to_string(state)) + ", " + to_string(static_cast<Input>(i)));
            Machine m;
            m.go_to(state);
            const uint64_t before = m.run.ignored();
            m.work(work_number(i));
            const bool new_run = i == 0 || i == static_cast<size_t>(Input::load);
            EXPECT_EQ(m.take(), new_run ? (Log{"tell failed"}) : Log{});
            EXPECT_EQ(m.run.state(), state);
            EXPECT_EQ(m.run.ignored(), before + uint64_t{verdict == Verdict::illegal});
            tried++;
        }
    }
    EXPECT_GT(tried, 150u);
}

TEST(LocalRun, AnswersThatAreNotDueAreCountedAndChangeNothing) {
    for (const State state : all_states) {
        SCOPED_TRACE(to_string(state));
        Machine m;
        m.go_to(state);
        const std::optional<Step> owed = m.owed;
        const auto owes = [&](auto type) {
            return owed && std::holds_alternative<decltype(type)>(*owed);
        };
        uint64_t wrong = 0;
        if (!owes(BeginSnapshot{})) {
            m.run.begun(std::nullopt);
            wrong++;
        }
        for (const hs_task task : {HS_TASK_PREPARE, HS_TASK_ARM, HS_TASK_SETTLE, HS_TASK_CHANNEL,
                                   HS_TASK_PUBLISH, HS_TASK_UNDO}) {
            if (!owes(RunTask{}) || std::get<RunTask>(*owed).task != task) {
                m.run.task_done(task, "late");
                wrong++;
            }
        }
        if (!owes(TakeCut{})) {
            m.run.cut_done(std::nullopt, Json::object());
            wrong++;
        }
        if (!owes(HoldRequests{})) {
            m.run.held(std::nullopt);
            wrong++;
        }
        if (!owes(SwitchDisks{})) {
            m.run.switched(std::nullopt, Json::object());
            wrong++;
        }
        if (!owes(MakeReport{})) {
            m.run.report(std::nullopt, Json::object());
            wrong++;
        }
        if (!owes(UndoRest{})) {
            m.run.undone(std::nullopt);
            wrong++;
        }
        if (!owes(BeginLoad{})) {
            m.run.loaded(std::nullopt, Json::object());
            wrong++;
        }
        if (!owes(StartVm{})) {
            m.run.started("late", Json::object());
            wrong++;
        }
        EXPECT_EQ(m.run.ignored(), wrong);
        EXPECT_EQ(m.run.state(), state);
        EXPECT_EQ(m.take(), Log{});
    }
}

// 30 s without a beat fail the run: a member beats until its part is complete, and no longer.
TEST(LocalRun, BeatsUntilItsPartIsComplete) {
    for (const State state : all_states) {
        SCOPED_TRACE(to_string(state));
        Machine m;
        m.go_to(state);
        m.run.beat({1, 2, 3});
        const Log log = m.take();
        const bool beats = state >= State::beginning && state <= State::reporting;
        const bool progress =
            state == State::precopying || (state >= State::saving && state <= State::complete);
        EXPECT_EQ(std::count(log.begin(), log.end(), "tell beat") > 0, beats);
        EXPECT_EQ(std::count(log.begin(), log.end(), "tell progress") > 0, progress);
    }
}

TEST(LocalRun, EndOfColoringBeforeTheChannelsAreClosedIsIgnored) {
    Machine m;
    m.go_to(State::saving);
    m.work(EndColoringWork{});
    EXPECT_EQ(m.take(), Log{});
    EXPECT_EQ(m.run.ignored(), 1u);
}

} // namespace
} // namespace hotsnap::member
