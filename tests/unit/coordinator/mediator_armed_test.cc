// SPDX-License-Identifier: GPL-2.0-or-later
// Red frames that come before this member can take its cut, and red frames that are forged.
#include "mediator_case.h"

namespace hotsnap::network {
namespace {

TEST_F(MediatorTest, ARedFrameBeforeArmedWaitsAndForcesTheCutThen) {
    prepare();
    mediator.start_coloring();
    EXPECT_EQ(receive(mac_a, red_even, 1).verdict, HS_HOLD);
    EXPECT_EQ(receive(mac_a, red_even, 2).verdict, HS_HOLD);
    EXPECT_EQ(receive(mac_c, white_even, 3).verdict, HS_HOLD); // keeps its place
    EXPECT_EQ(released(HS_TO_GUEST), Payloads());
    EXPECT_TRUE(mediator.armed());
    EXPECT_EQ(receive(mac_a, red_even, 4).verdict, HS_HOLD); // the cut is asked for once
    mediator.cut();
    EXPECT_EQ(released(HS_TO_GUEST), Payloads({1, 2, 3, 4}));
    EXPECT_EQ(recorded(), Payloads({3}));
    EXPECT_EQ(mediator.stats().on_the_fly, 3u);
}

TEST_F(MediatorTest, ARedFrameBeforeColoringWaits) {
    prepare();
    EXPECT_EQ(receive(mac_a, red_even, 1).verdict, HS_HOLD);
    mediator.start_coloring();
    EXPECT_EQ(receive(mac_c, natural, 2).verdict, HS_HOLD);
    EXPECT_TRUE(mediator.armed());
    mediator.cut();
    EXPECT_EQ(released(HS_TO_GUEST), Payloads({1, 2}));
}

// It may be a new source of a member, and the guest has not received it yet.
TEST_F(MediatorTest, WhatWaitsForTheCutFromAnUnknownSourceIsRecorded) {
    const Mac unknown = *Mac::parse("52:54:00:00:00:77");
    arm();
    receive(unknown, natural, 1); // delivered at once
    receive(mac_a, red_even, 2);
    EXPECT_EQ(receive(unknown, natural, 3).verdict, HS_HOLD);
    EXPECT_EQ(receive(unknown, natural, 4, outsider).verdict, HS_HOLD); // a flooded copy
    mediator.cut();
    EXPECT_EQ(released(HS_TO_GUEST), Payloads({2, 3, 4}));
    receive(unknown, natural, 5); // the outside goes on
    EXPECT_EQ(recorded(), Payloads({3}));
}

TEST_F(MediatorTest, AnEarlyRedFrameIsDeliveredAfterAnAbort) {
    prepare();
    mediator.start_coloring();
    receive(mac_a, red_even, 1);
    mediator.reset();
    EXPECT_EQ(released(HS_TO_GUEST), Payloads({1}));
    EXPECT_FALSE(mediator.armed()); // the call comes too late, and does no harm
    arm(3);                         // nothing waits in the next epoch
    EXPECT_EQ(receive(mac_a, white_odd).verdict, HS_PASS);
}

TEST_F(MediatorTest, ArmedWithoutColoringAsksForNoCut) {
    prepare();
    receive(mac_a, red_even);
    EXPECT_FALSE(mediator.armed());
}

TEST_F(MediatorTest, WhatNoMemberSentForcesNoCut) {
    arm();
    // An alias of another table, and one that no source of ours has.
    const MemberTable others = table_of({{"a", {{"net0", mac_a, {}}}}});
    for (const Mac stranger :
         {colored(others, mac_a, red_even), table.alias(99, {Color::red, false})}) {
        EXPECT_EQ(receive(stranger).verdict, HS_PASS);
        EXPECT_EQ(receive(stranger).tone, natural);
    }
    EXPECT_EQ(receive(mac_b, red_even).verdict, HS_PASS); // our own color, before our cut
    EXPECT_EQ(receive(mac_b2, red_even, 0, everyone).verdict, HS_PASS);
    EXPECT_EQ(receive(mac_a, red_even).verdict, HS_HOLD_AND_CUT);
}

TEST_F(MediatorTest, AForgedColorDoesNotLeaveBeforeColoringEither) {
    prepare();
    EXPECT_EQ(frame(HS_FROM_GUEST, colored(table, mac_a, red_even), mac_c).verdict, HS_HOLD);
    EXPECT_EQ(frame(HS_FROM_GUEST, colored(table, mac_b, red_even), mac_c).verdict, HS_HOLD);
    EXPECT_EQ(frame(HS_FROM_GUEST, colored(table, mac_b, red_even), everyone).verdict, HS_HOLD);
    mediator.start_coloring();
    EXPECT_EQ(frame(HS_FROM_GUEST, colored(table, mac_b, red_even), everyone).verdict, HS_HOLD);
    EXPECT_EQ(mediator.stats().dropped, 4u);
    mediator.cut();
    mediator.end_coloring();
    EXPECT_EQ(released(HS_FROM_GUEST), Payloads());
}

} // namespace
} // namespace hotsnap::network
