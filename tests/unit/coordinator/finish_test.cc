// SPDX-License-Identifier: GPL-2.0-or-later
// One end for all copies: clocks, lateness, and the one move.
#include "finish.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "deadline.h"

namespace hotsnap::cluster {
namespace {

constexpr uint64_t second = 1'000'000;

// Whatever the difference of the clocks and the times on the way, the estimate is off by no more
// than it says.
RC_GTEST_PROP(ClockOffset, IsOffByNoMoreThanItSays, ()) {
    const auto difference = *rc::gen::arbitrary<uint64_t>();
    const auto sent = *rc::gen::inRange<uint64_t>(1, 1000 * second);
    const auto there = *rc::gen::inRange<uint64_t>(0, 5 * second);
    const auto stay = *rc::gen::inRange<uint64_t>(0, second);
    const auto back = *rc::gen::inRange<uint64_t>(0, 5 * second);
    const ClockOffset offset =
        ClockOffset::measured(sent, sent + there + difference, sent + there + stay + difference,
                              sent + there + stay + back);
    const auto off = static_cast<int64_t>(offset.us - difference);
    RC_ASSERT(static_cast<uint64_t>(off < 0 ? -off : off) <= offset.error_us);
    RC_ASSERT(offset.error_us <= (there + back + 1) / 2);
    RC_ASSERT(offset.ours(offset.theirs(sent)) == sent);
}

// A member can claim anything.
RC_GTEST_PROP(ClockOffset, NonsenseIsOnlyAWrongClock, (uint64_t received, uint64_t replied)) {
    const ClockOffset offset = ClockOffset::measured(5, received, replied, 9);
    RC_ASSERT(offset.ours(offset.theirs(7)) == 7u);
}

TEST(Finish, IsToldInEachClock) {
    Finish finish(3 * second, 2);
    finish.set_clock(1, {100 * second, 10});
    finish.set_cut(5 * second);
    EXPECT_EQ(finish.due_us(), 8 * second);
    EXPECT_EQ(finish.due_of(0), 8 * second);
    EXPECT_EQ(finish.due_of(1), 108 * second);
}

TEST(Finish, NoneIsWanted) {
    Finish finish(0, 1);
    finish.set_cut(5 * second);
    EXPECT_FALSE(finish.wanted());
    EXPECT_EQ(finish.due_of(0), 0u);
    EXPECT_FALSE(finish.is_late(0, 900 * second));
    finish.set_duration(second);
    EXPECT_EQ(finish.due_of(0), 6 * second);
}

TEST(Finish, TheSecondLateReportInARowCounts) {
    Finish finish(10 * second, 2);
    finish.set_cut(0);
    const uint64_t late = 10 * second + second / 2, on_time = 10 * second + second / 10;
    EXPECT_FALSE(finish.is_late(0, late));
    EXPECT_FALSE(finish.is_late(1, late)); // another member
    EXPECT_FALSE(finish.is_late(0, on_time));
    EXPECT_FALSE(finish.is_late(0, late));
    EXPECT_FALSE(finish.is_late(0, 0)); // it cannot tell
    EXPECT_FALSE(finish.is_late(0, late));
    EXPECT_TRUE(finish.is_late(0, late));
}

TEST(Finish, MovesOnceToTheLatestEnd) {
    Finish finish(10 * second, 2);
    finish.set_clock(1, {7 * second, 0});
    finish.set_cut(0);
    finish.is_late(0, 12 * second);
    finish.is_late(1, 15 * second + 7 * second);
    EXPECT_TRUE(finish.move(5 * second));
    EXPECT_EQ(finish.due_us(), 15 * second + second / 2); // a twentieth of the way to spare
    EXPECT_EQ(finish.delay_us(), 5 * second + second / 2);
    EXPECT_EQ(finish.due_of(1), 22 * second + second / 2);
    finish.is_late(1, 40 * second);
    EXPECT_FALSE(finish.move(6 * second));
    EXPECT_EQ(finish.delay_us(), 5 * second + second / 2);
    finish.set_duration(20 * second); // the user's: it may be moved once more
    EXPECT_EQ(finish.due_us(), 20 * second);
    EXPECT_TRUE(finish.move(6 * second));
}

// Storage that stalls for a moment makes an estimate grow without bound; the others shall not wait
// for ever.
RC_GTEST_PROP(Finish, MovesNoFartherThanItMay, (uint64_t expected, uint64_t now)) {
    const auto duration = *rc::gen::inRange<uint64_t>(1, 100 * second);
    Finish finish(duration, 1);
    finish.set_cut(second);
    finish.is_late(0, expected);
    RC_ASSERT(finish.move(now));
    RC_ASSERT(finish.due_us() >= second + duration);
    RC_ASSERT(finish.due_us() <= second + Finish::most_stretch * duration);
}

} // namespace
} // namespace hotsnap::cluster
