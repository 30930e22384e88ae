// SPDX-License-Identifier: GPL-2.0-or-later
// A member's part in a barrier: its hold, and all that ends it.
#include "machine.h"

namespace hotsnap::member {
namespace {

TEST(LocalRunBarrier, OrdinaryWay) {
    Machine m;
    m.go_to(State::prepared);
    m.work(FlushWork{});
    EXPECT_EQ(m.take(), (Log{"task arm"}));
    m.answer();
    EXPECT_EQ(m.take(), (Log{"tell flushed"}));
    m.work(HoldWork{7'000});
    EXPECT_EQ(m.take(), (Log{"hold"}));
    EXPECT_EQ(std::get<HoldRequests>(*m.owed).longest_us, 7'000u);
    m.answer();
    EXPECT_EQ(m.take(), (Log{"tell held"}));
    EXPECT_TRUE(m.holds);
    m.work(SwitchWork{});
    EXPECT_EQ(m.take(), (Log{"switch"}));
    m.run.memory_done(std::nullopt); // none is copied; says so before the answer
    m.answer();
    EXPECT_EQ(m.take(), (Log{"tell switched", "task settle"}));
    EXPECT_EQ(std::get<Switched>(m.events.back()).hold["end_ns"], 2);
    EXPECT_FALSE(m.holds);
    m.answer();
    EXPECT_EQ(m.take(), (Log{"task channel"})) << "there is no channel to wait for";
    m.answer();
    EXPECT_EQ(m.take(), (Log{"report"}));
    m.answer();
    EXPECT_EQ(m.take(), (Log{"tell full-fin"}));
    m.work(CommitWork{});
    EXPECT_EQ(m.take(), (Log{"release", "forget kept"}));
    EXPECT_EQ(m.run.ignored(), 0u);
}

// Frames are nobody's business here: a red one of a forger is not held, and forces no cut.
TEST(LocalRunBarrier, FramesFlow) {
    for (const State state :
         {State::flushing, State::flushed, State::holding, State::held, State::switching}) {
        SCOPED_TRACE(to_string(state));
        Machine m;
        m.go_to(state);
        EXPECT_EQ(m.receive(Machine::red), HS_PASS);
        m.run.red_frame();
        m.run.frame_received();
        EXPECT_EQ(m.take(), Log{});
        EXPECT_EQ(m.run.state(), state);
    }
}

// The timer first, then SWITCH: the switch is not done.
TEST(LocalRunBarrier, NoSwitchAfterTheEndOfTheHold) {
    Machine m;
    m.go_to(State::held);
    m.holds = false; // the machine ended the hold itself
    m.run.hold_ended("too long");
    m.work(SwitchWork{});
    EXPECT_EQ(m.take().front(), "tell failed");
    EXPECT_EQ(std::get<Failed>(m.events.back()).error, "too long");
    EXPECT_EQ(m.count("switch"), 0u);
    EXPECT_EQ(m.run.ignored(), 0u) << "the initiator did not know yet";
    m.work(AbortWork{"too long"});
    m.answer_all();
    EXPECT_EQ(m.count("tell switched"), 0u);
    EXPECT_EQ(m.count("forget undone"), 1u);
}

// SWITCH first, then the timer, before the machine has begun the step: it refuses the step.
TEST(LocalRunBarrier, EndOfTheHoldBeforeTheSwitchIsTaken) {
    Machine m;
    m.go_to(State::held);
    m.work(SwitchWork{});
    m.holds = false;
    m.run.hold_ended("too long");
    EXPECT_EQ(m.take(), (Log{"switch"}));
    m.answer("too long");
    EXPECT_EQ(m.take(), (Log{"tell failed"}));
    EXPECT_EQ(m.count("tell switched"), 0u);
    EXPECT_EQ(m.run.ignored(), 0u);
}

// News of it that comes when all is over already.
TEST(LocalRunBarrier, LateEndOfTheHold) {
    Machine m;
    m.go_to(State::held);
    m.work(AbortWork{"x"});
    m.run.hold_ended("too long");
    m.take();
    m.run.hold_ended("too long");
    EXPECT_EQ(m.run.ignored(), 0u);
    m.answer_all();
    EXPECT_EQ(m.count("tell failed"), 0u);
}

TEST(LocalRunBarrier, AnAbortEndsTheHoldAtOnce) {
    Machine held;
    held.go_to(State::held);
    held.work(AbortWork{"x"});
    EXPECT_EQ(held.take(), (Log{"release", "release requests", "release", "task undo"}));

    Machine holding; // on its way into the hold, which is not kept
    holding.go_to(State::holding);
    holding.work(AbortWork{"x"});
    EXPECT_EQ(holding.take(), (Log{"release"}));
    holding.answer();
    EXPECT_EQ(holding.take(), (Log{"release requests", "release", "task undo"}));
    EXPECT_EQ(holding.count("tell held"), 0u);

    Machine fresh; // a switch that was not taken
    fresh.go_to(State::held);
    fresh.work(SwitchWork{});
    fresh.work(AbortWork{"x"});
    EXPECT_EQ(fresh.take(), (Log{"release", "release requests", "release", "task undo"}));
    EXPECT_FALSE(fresh.holds);

    Machine m;
    m.go_to(State::switching);
    m.work(AbortWork{"x"});
    m.answer_all();
    EXPECT_FALSE(m.holds);
    EXPECT_EQ(m.count("tell switched"), 0u);
    EXPECT_EQ(m.count("forget undone"), 1u);
}

TEST(LocalRunBarrier, AnyFailureEndsTheHold) {
    Machine m;
    m.go_to(State::held);
    m.run.failed("memory was taken away");
    EXPECT_EQ(m.take(), (Log{"tell failed", "release requests"}));
    EXPECT_FALSE(m.holds);
}

} // namespace
} // namespace hotsnap::member
