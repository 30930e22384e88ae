// SPDX-License-Identifier: GPL-2.0-or-later
// Failure, abort and commit in every state; no order of events does harm.
#include <algorithm>

#include <rapidcheck.h>

#include "machine.h"

namespace hotsnap::member {
namespace {

bool is_over(State state) {
    return state == State::idle || state == State::ending || state == State::undoing;
}

TEST(LocalRunEnd, AbortInEveryState) {
    for (const State state : all_states) {
        for (const bool with_errors : {false, true}) {
            if (is_over(state)) {
                continue;
            }
            SCOPED_TRACE(to_string(state));
            Machine m;
            m.go_to(state);
            const bool under_way = m.owes();
            m.work(AbortWork{"changed my mind"});
            const Log first = m.take();
            if (state < State::loading) {
                EXPECT_EQ(first.front(), "release") << "frames first";
                EXPECT_EQ(m.run.state(), under_way ? State::ending : State::undoing);
                EXPECT_EQ(m.count("task undo"), size_t{!under_way}) << "beside what is under way";
            }
            m.answer_all(with_errors ? LocalRun::Fault("stopped") : std::nullopt);
            EXPECT_EQ(m.run.state(), State::idle);
            EXPECT_EQ(m.count("tell aborted"), 1u);
            EXPECT_EQ(m.all.back(), "tell aborted");
            EXPECT_EQ(m.count("tell failed"),
                      size_t{state == State::failed || state == State::load_failed})
                << "of what the abort made fail";
            const bool made = state < State::loading && !(with_errors && state == State::beginning);
            EXPECT_EQ(m.count("forget undone"), size_t{made});
            if (made && with_errors) {
                EXPECT_EQ(std::get<Aborted>(m.events.back()).error, "stopped; stopped");
            }
        }
    }
}

TEST(LocalRunEnd, AbortOfARestoreStopsWhatRuns) {
    const std::vector<std::pair<State, Log>> expected = {
        {State::loading, {"end load", "tell aborted"}},
        {State::loaded, {"end load", "tell aborted"}},
        {State::starting, {"stop", "end load", "tell aborted"}},
        {State::running, {"stop", "tell aborted"}},
        {State::load_failed, {"end load", "tell aborted"}},
    };
    for (const auto &[state, log] : expected) {
        SCOPED_TRACE(to_string(state));
        Machine m;
        m.go_to(state);
        m.work(AbortWork{"x"});
        EXPECT_EQ(m.take(), log);
    }
}

TEST(LocalRunEnd, AbortOfARunThatIsNotHere) {
    Machine m;
    m.work(AbortWork{"x"});
    EXPECT_EQ(m.take(), (Log{"tell aborted"}));
}

TEST(LocalRunEnd, SecondAbortIsIgnored) {
    for (const State state : {State::ending, State::undoing}) {
        Machine m;
        m.go_to(state);
        m.work(AbortWork{"again"});
        EXPECT_EQ(m.run.ignored(), 1u);
        m.answer_all();
        EXPECT_EQ(m.count("tell aborted"), 1u);
    }
}

TEST(LocalRunEnd, FailureOfWhateverIsUnderWay) {
    for (const State state : all_states) {
        Machine m;
        m.go_to(state);
        if (!m.owes() || is_over(state)) {
            continue;
        }
        SCOPED_TRACE(to_string(state));
        m.answer("no space left");
        EXPECT_EQ(m.take(), (Log{"tell failed"}));
        EXPECT_EQ(std::get<Failed>(m.events.back()).error, "no space left");
        EXPECT_EQ(m.run.state(), state == State::beginning ? State::idle
                                 : state >= State::loading ? State::load_failed
                                                           : State::failed);
        m.work(AbortWork{"no space left"});
        m.answer_all();
        EXPECT_EQ(m.all.back(), "tell aborted");
        EXPECT_EQ(m.run.state(), State::idle);
    }
}

// Memory is taken away, or its copy fails, beside a task: the task is waited for.
TEST(LocalRunEnd, FailureBesideATask) {
    for (const State state : {State::beginning, State::preparing, State::arming, State::cutting,
                              State::saving, State::recording, State::reporting}) {
        SCOPED_TRACE(to_string(state));
        Machine m;
        m.go_to(state);
        m.run.memory_done("memory was taken away");
        EXPECT_EQ(m.take(), (Log{"tell failed"}));
        m.run.failed("and once more");
        m.answer();
        EXPECT_EQ(m.take(), Log{}) << "what became of the step is no news";
        m.work(AbortWork{"memory was taken away"});
        m.answer_all();
        EXPECT_EQ(m.count("tell failed"), 1u);
        EXPECT_EQ(m.count("tell aborted"), 1u);
    }
}

// Once the bundle may exist, its publication must not be reported as failed.
TEST(LocalRunEnd, PublicationFailsByItsTaskAlone) {
    Machine m;
    m.go_to(State::publishing);
    m.run.failed("memory was taken away");
    EXPECT_EQ(m.take(), Log{});
    m.answer();
    EXPECT_EQ(m.take(), (Log{"tell published"}));
}

TEST(LocalRunEnd, TheRecordStandsWhileItIsWritten) {
    Machine m;
    m.go_to(State::saving);
    EXPECT_EQ(m.receive(Machine::white), HS_PASS);
    m.work(CloseChannelsWork{});
    m.run.memory_done(std::nullopt);
    m.answer();
    m.take();
    ASSERT_EQ(m.run.state(), State::recording);
    ASSERT_EQ(m.mediator.record().frames().size(), 1u);
    m.work(AbortWork{"x"});
    m.take();
    EXPECT_EQ(m.mediator.record().frames().size(), 1u);
    EXPECT_EQ(m.receive(Machine::red), HS_PASS) << "frames flow all the same";
    EXPECT_EQ(m.mediator.record().frames().size(), 1u);
    m.answer();
    m.take();
    EXPECT_EQ(m.mediator.record().frames().size(), 0u);
}

TEST(LocalRunEnd, HeldFramesFlowAtOnceInAnAbort) {
    Machine m;
    m.go_to(State::arming);
    EXPECT_EQ(m.receive(Machine::red), HS_HOLD);
    EXPECT_EQ(m.receive(Machine::natural), HS_HOLD);
    m.work(AbortWork{"x"});
    m.take();
    EXPECT_EQ(m.run.state(), State::ending);
    EXPECT_EQ(m.frames_held, 0u);
}

// A step that the machine has not taken yet is not carried out any more.
TEST(LocalRunEnd, AbortTakesBackWhatWasNotTaken) {
    Machine m;
    m.go_to(State::armed);
    m.run.red_frame();
    m.work(AbortWork{"x"});
    EXPECT_EQ(m.take(), (Log{"release", "release", "task undo"}));

    Machine fresh;
    fresh.work(prepare_work());
    fresh.work(AbortWork{"x"});
    EXPECT_EQ(fresh.take(), (Log{"release", "tell aborted"}));

    Machine restored;
    restored.work(load_work());
    restored.work(AbortWork{"x"});
    EXPECT_EQ(restored.take(), (Log{"tell aborted"}));

    Machine loaded;
    loaded.go_to(State::loaded);
    loaded.work(StartWork{});
    loaded.work(AbortWork{"x"});
    EXPECT_EQ(loaded.take(), (Log{"end load", "tell aborted"}));
}

TEST(LocalRunEnd, CommitInEveryState) {
    for (const State state : all_states) {
        SCOPED_TRACE(to_string(state));
        Machine m;
        m.go_to(state);
        m.work(CommitWork{true, "the initiator was lost"});
        const Log log = m.take();
        if (state == State::complete || state == State::published || state == State::failed) {
            EXPECT_EQ(log, (Log{"release", "forget in doubt"}));
            EXPECT_FALSE(m.run.busy());
        } else if (state == State::running) {
            EXPECT_FALSE(m.run.busy());
        } else {
            EXPECT_EQ(log, Log{});
            EXPECT_EQ(m.run.state(), state);
            EXPECT_EQ(m.run.ignored(), 1u);
        }
    }
    Machine m; // failed, and its task still runs
    m.go_to(State::saving);
    m.run.failed("x");
    m.take();
    m.work(CommitWork{});
    EXPECT_EQ(m.run.state(), State::failed);
    EXPECT_EQ(m.run.ignored(), 1u);
}

// The next run starts as if there had been none before.
TEST(LocalRunEnd, RunsFollowEachOther) {
    for (const State state : all_states) {
        SCOPED_TRACE(to_string(state));
        Machine m;
        m.go_to(state);
        if (!is_over(state)) {
            m.work(AbortWork{"x"});
        }
        m.answer_all();
        m.go_to(State::published);
        m.work(CommitWork{});
        m.take();
        EXPECT_FALSE(m.run.busy());
    }
}

// Mostly an event that is due, so that runs get far; else any event.
void one_event(Machine &m, size_t &aborts) {
    const int choice = *rc::gen::inRange(0, 24);
    if (choice < 9) {
        m.answer(choice == 0 ? LocalRun::Fault("no luck") : std::nullopt);
        return;
    }
    const State state = m.run.state();
    switch (choice) {
    case 9:
        aborts += !m.run.aborting();
        m.work(AbortWork{"x"});
        return;
    case 10:
        m.work(CommitWork{});
        return;
    case 11:
        m.run.red_frame();
        return;
    case 12:
        m.run.failed("x");
        return;
    case 13:
        m.run.memory_done(std::nullopt);
        return;
    case 14:
        m.run.beat({1, 2, 3});
        return;
    case 15:
    case 16:
        if (m.receive(*rc::gen::element(Machine::natural, Machine::white, Machine::red)) ==
            HS_HOLD_AND_CUT) {
            m.run.red_frame();
        }
        m.run.frame_received();
        return;
    case 17:
        if (!m.owes()) {
            m.run.cut_done(std::nullopt, Json::object());
            m.run.loaded(std::nullopt, Json::object());
        }
        return;
    case 19:
        if (std::exchange(m.holds, false)) { // the machine's timer
            m.run.hold_ended("too long");
        }
        return;
    default:
        break;
    }
    const std::vector<LocalWork> all = {
        prepare_work(), Machine::table(), ListenWork{},        ArmWork{},         PaceWork{7},
        CutWork{},      ExpectWork{},     CloseChannelsWork{}, EndColoringWork{}, PublishWork{},
        load_work(),    StartWork{},      FlushWork{},         HoldWork{5},       SwitchWork{}};
    std::vector<LocalWork> due;
    for (const LocalWork &one : all) {
        if (judge(state, static_cast<Input>(one.index())) == Verdict::legal) {
            due.push_back(one);
        }
    }
    m.work(due.empty() || choice == 18 ? all[*rc::gen::inRange<size_t>(0, all.size())]
                                       : due[*rc::gen::inRange<size_t>(0, due.size())]);
}

TEST(LocalRunEnd, NoOrderOfEventsDoesHarm) {
    EXPECT_TRUE(rc::check([] {
        Machine m;
        size_t aborts = 0;
        const int events = *rc::gen::inRange(1, 150);
        for (int i = 0; i < events; i++) {
            one_event(m, aborts);
            if (*rc::gen::inRange(0, 4) > 0) { // else steps are taken later
                m.take();
            }
        }
        m.answer_all();
        if (m.run.busy()) {
            aborts += !m.run.aborting();
            m.work(AbortWork{"the end"});
        }
        m.answer_all();
        RC_ASSERT(!m.run.busy());
        RC_ASSERT(m.count("tell aborted") == aborts);
        RC_ASSERT(m.frames_held == 0u);
        RC_ASSERT(!m.holds);
    }));
}

} // namespace
} // namespace hotsnap::member
