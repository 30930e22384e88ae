// SPDX-License-Identifier: GPL-2.0-or-later
// The packet mediator, rule by rule. The simulation shows that the rules together make a consistent
// cut.
#include "mediator_case.h"

namespace hotsnap::network {
namespace {

TEST_F(MediatorTest, WithoutATableNothingIsTouched) {
    EXPECT_EQ(send(mac_a).tone, natural);
    EXPECT_EQ(receive(mac_a, red_even).tone, natural);
    EXPECT_EQ(receive(mac_a).verdict, HS_PASS);
    EXPECT_EQ(send(everyone).verdict, HS_PASS);
}

TEST_F(MediatorTest, ColorsFollowTheEpoch) {
    prepare(2);
    EXPECT_EQ(send(mac_a).tone, natural);
    mediator.start_coloring();
    EXPECT_EQ(send(mac_a).tone, white_even);
    mediator.cut();
    EXPECT_EQ(send(mac_a).tone, red_even);
    mediator.end_coloring();
    EXPECT_EQ(send(mac_a).tone, natural);
    mediator.reset();
    arm(3);
    EXPECT_EQ(send(mac_a).tone, white_odd);
    mediator.cut();
    EXPECT_EQ(send(mac_a).tone, red_odd);
    mediator.reset();
    EXPECT_EQ(send(mac_a).tone, natural);
}

TEST_F(MediatorTest, FramesToMembersAreColored) {
    arm();
    EXPECT_EQ(send(outsider).tone, natural);
    EXPECT_EQ(send(outsider).verdict, HS_PASS);
    EXPECT_EQ(frame(HS_FROM_GUEST, mac_b2, mac_a, 0, 1).tone, white_even);
    EXPECT_EQ(frame(HS_FROM_GUEST, mac_b, mac_b2).tone, white_even); // own NICs are members, too
}

TEST_F(MediatorTest, AForgedColorDoesNotLeave) {
    arm();
    EXPECT_EQ(frame(HS_FROM_GUEST, colored(table, mac_a, red_even), mac_c).verdict, HS_HOLD);
    EXPECT_EQ(mediator.stats().dropped, 1u);
    mediator.cut();
    EXPECT_EQ(released(HS_TO_GUEST), Payloads());
}

TEST_F(MediatorTest, ReceivedColorsAreRestored) {
    prepare();
    for (const Tone color : {white_even, white_odd, red_odd}) {
        EXPECT_EQ(receive(mac_a, color).tone, color);
        EXPECT_EQ(receive(mac_a, color).verdict, HS_PASS);
    }
    mediator.start_coloring();
    mediator.cut();
    mediator.end_coloring();
    mediator.reset();
    EXPECT_EQ(receive(mac_a, red_even).tone, red_even); // late, after the epoch
}

TEST_F(MediatorTest, LateFramesOfFormerGroupsAreRestored) {
    prepare();
    for (uint64_t epoch = 3; epoch < 10; epoch++) {
        mediator.reset();
        EXPECT_EQ(receive(mac_c, red_even).tone, red_even);
        std::string error;
        std::vector<Member> without_c = members();
        without_c.pop_back();
        ASSERT_TRUE(mediator.prepare(epoch, "b", without_c, true, error));
        EXPECT_EQ(receive(mac_c, red_even).tone, red_even);
        mediator.start_coloring();
        EXPECT_EQ(receive(mac_c, red_odd).verdict, HS_PASS); // c is no member of this epoch
    }
}

TEST_F(MediatorTest, FirstRedFrameForcesTheCutAndAllWaitForIt) {
    arm();
    EXPECT_EQ(receive(mac_a, white_even, 1).verdict, HS_PASS);
    EXPECT_EQ(receive(mac_a, red_even, 2).verdict, HS_HOLD_AND_CUT);
    EXPECT_EQ(receive(mac_a, red_even, 3).verdict, HS_HOLD);
    EXPECT_EQ(receive(mac_c, white_even, 4).verdict, HS_HOLD);
    EXPECT_EQ(receive(outsider, natural, 5, mac_b2, 1).verdict, HS_HOLD);
    EXPECT_EQ(receive(mac_a, natural, 6, everyone).verdict, HS_HOLD);
    EXPECT_EQ(released(HS_TO_GUEST), Payloads());
    EXPECT_EQ(send(mac_a).verdict, HS_PASS); // the guest goes on
    mediator.cut();
    EXPECT_EQ(released(HS_TO_GUEST), Payloads({2, 3, 4, 5, 6}));
    EXPECT_EQ(receive(mac_a, red_even, 7).verdict, HS_PASS);
    // Held frames are received after the cut: channel state if sent before the sender's cut.
    EXPECT_EQ(recorded(), Payloads({4, 6}));
    EXPECT_EQ(mediator.stats().on_the_fly, 2u);
    EXPECT_EQ(mediator.stats().held, 5u);
}

TEST_F(MediatorTest, RedOfAnOlderEpochForcesNothing) {
    arm(3);
    EXPECT_EQ(receive(mac_a, red_even).verdict, HS_PASS);
    EXPECT_EQ(receive(mac_a, red_odd).verdict, HS_HOLD_AND_CUT);
}

TEST_F(MediatorTest, LaterFramesStayBehindReleasedOnes) {
    arm();
    receive(mac_a, red_even, 1);
    mediator.cut();
    EXPECT_EQ(receive(mac_a, red_even, 2).verdict, HS_HOLD);
    EXPECT_EQ(receive(mac_c, white_even, 3).verdict, HS_HOLD);
    EXPECT_EQ(released(HS_TO_GUEST), Payloads({1, 2, 3}));
    EXPECT_EQ(recorded(), Payloads({3}));
    EXPECT_EQ(receive(mac_a, red_even, 4).verdict, HS_PASS);
}

TEST_F(MediatorTest, BroadcastsOfARedMemberWaitForTheEndOfColoring) {
    prepare();
    EXPECT_EQ(send(everyone, 1).verdict, HS_PASS);
    mediator.start_coloring();
    mediator.cut();
    EXPECT_EQ(send(everyone, 2).verdict, HS_HOLD);
    EXPECT_EQ(frame(HS_FROM_GUEST, outsider, everyone, 3, 1).verdict, HS_HOLD);
    EXPECT_EQ(send(mac_a, 4).verdict, HS_PASS); // may overtake
    EXPECT_EQ(released(HS_FROM_GUEST), Payloads());
    mediator.end_coloring();
    EXPECT_EQ(send(everyone, 5).verdict, HS_HOLD); // behind the others
    EXPECT_EQ(released(HS_FROM_GUEST), Payloads({2, 3, 5}));
    EXPECT_EQ(send(everyone, 6).verdict, HS_PASS);
    EXPECT_EQ(mediator.stats().waited_group, 2u);
}

TEST_F(MediatorTest, ResetLetsAllGoInAnyState) {
    arm();
    receive(mac_a, red_even, 1);
    receive(mac_c, natural, 2);
    mediator.reset();
    EXPECT_EQ(released(HS_TO_GUEST), Payloads({1, 2}));
    cut(3);
    send(everyone, 3);
    mediator.reset();
    EXPECT_EQ(released(HS_FROM_GUEST), Payloads({3}));
    EXPECT_EQ(recorded(), Payloads());
    EXPECT_EQ(receive(mac_a, red_odd).verdict, HS_PASS);
}

TEST_F(MediatorTest, NegativeControlLeavesFramesAlone) {
    arm(2, false);
    EXPECT_EQ(send(mac_a).tone, natural);
    EXPECT_EQ(receive(mac_a, red_even).verdict, HS_PASS);
    mediator.cut();
    EXPECT_EQ(send(mac_a).tone, natural);
    EXPECT_EQ(send(everyone).verdict, HS_PASS);
    receive(mac_a);
    EXPECT_EQ(recorded(), Payloads());
    EXPECT_EQ(mediator.stats().white_sent, 1u); // still counted
    expect({{{mac_a, mac_b}, 1}});
    EXPECT_TRUE(mediator.channels_complete());
}

TEST_F(MediatorTest, PrepareIsChecked) {
    std::string error;
    EXPECT_FALSE(mediator.prepare(2, "x", members(), true, error));
    EXPECT_NE(error.find("'x'"), std::string::npos) << error;
    auto fewer = members();
    fewer[1].nics.pop_back();
    EXPECT_FALSE(mediator.prepare(2, "b", fewer, true, error));
    EXPECT_NE(error.find("net1"), std::string::npos) << error;
    auto twins = members();
    twins[0].nics[0].mac = mac_b;
    EXPECT_FALSE(mediator.prepare(2, "b", twins, true, error));
    EXPECT_TRUE(mediator.prepare(2, "b", members(), true, error)) << error;
    EXPECT_FALSE(mediator.prepare(3, "b", members(), true, error));
    EXPECT_NE(error.find("reset"), std::string::npos) << error;
    mediator.remove_nic(1);
    mediator.reset();
    EXPECT_TRUE(mediator.prepare(2, "b", fewer, true, error)) << error;
}

TEST_F(MediatorTest, ARemovedNicTakesItsFramesWithIt) {
    arm();
    receive(mac_a, red_even, 1);
    receive(mac_a, red_even, 2, mac_b2, 1);
    receive(mac_a, red_even, 3);
    mediator.remove_nic(1);
    mediator.cut();
    EXPECT_EQ(released(HS_TO_GUEST), Payloads({1, 3}));
}

TEST_F(MediatorTest, HeldFramesAreBounded) {
    arm();
    std::vector<uint8_t> data = bytes(colored(table, mac_a, red_even), mac_b, 0);
    data.resize(size_t{1} << 20);
    const hs_frame given{0, HS_TO_GUEST, data.data(), data.size(), 0, 0};
    Mac source;
    for (int i = 0; i < 100; i++) {
        EXPECT_NE(mediator.frame(given, 0, source), HS_PASS);
    }
    const hs_mediator_stats stats = mediator.stats();
    EXPECT_EQ(stats.held + stats.dropped, 100u);
    EXPECT_EQ(stats.held, 64u);
    mediator.cut();
    size_t count = 0;
    for (hs_frame held; mediator.next_released(held, now);) {
        count++;
    }
    EXPECT_EQ(count, 64u);
}

TEST_F(MediatorTest, TaggedFramesWork) {
    arm();
    std::vector<uint8_t> data = bytes(colored(table, mac_a, red_even), mac_b, 0);
    data[12] = 0x81;
    data[13] = 0x00;
    data.resize(64);
    const hs_frame given{0, HS_TO_GUEST, data.data(), data.size(), 0, 0};
    Mac source;
    EXPECT_EQ(mediator.frame(given, 0, source), HS_HOLD_AND_CUT);
}

TEST_F(MediatorTest, ShortFramesPass) {
    arm();
    for (size_t size = 0; size < 14; size++) {
        const std::vector<uint8_t> data(size, 0x5a);
        const hs_frame given{0, HS_TO_GUEST, data.data(), data.size(), 0, 0};
        Mac source;
        EXPECT_EQ(mediator.frame(given, 0, source), HS_PASS);
    }
}

} // namespace
} // namespace hotsnap::network
