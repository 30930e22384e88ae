// SPDX-License-Identifier: GPL-2.0-or-later
// The packet mediator: counts, channel state, and the close of channels.
#include "mediator_case.h"

namespace hotsnap::network {
namespace {

TEST_F(MediatorTest, RecordsWhatWasSentBeforeTheSendersCut) {
    cut();
    EXPECT_EQ(receive(mac_a, white_even, 1).verdict, HS_PASS);
    receive(mac_a, natural, 2);             // from before a began to color
    receive(mac_a, natural, 3, everyone);   // broadcasts of red members wait
    receive(mac_a, red_odd, 4);             // of an older epoch
    receive(mac_a, white_odd, 5);           // of an aborted one
    receive(mac_a, red_even, 10);           // after the cut
    receive(outsider, natural, 11);         // no member
    receive(mac_a, natural, 12, outsider);  // not for us
    receive(mac_a, white_even, 13, mac_b2); // flooded: the guest may listen to it
    EXPECT_EQ(recorded(), Payloads({1, 2, 3, 4, 5, 13}));
    EXPECT_EQ(mediator.stats().recorded, 6u);
    EXPECT_EQ(mediator.stats().uncolored, 2u);
    mediator.close_channels();
    receive(mac_a, white_even, 14);
    EXPECT_EQ(mediator.stats().recorded, 6u);
}

TEST_F(MediatorTest, ChannelsAreCompleteByCount) {
    cut();
    receive(mac_a, white_even);
    EXPECT_FALSE(mediator.channels_complete()); // the counts to expect are not known yet
    expect({{{mac_a, mac_b}, 2}, {{mac_c, mac_b2}, 1}});
    EXPECT_FALSE(mediator.channels_complete());
    receive(mac_a, white_odd); // does not count: not of this epoch
    receive(mac_a, white_even);
    EXPECT_FALSE(mediator.channels_complete());
    receive(mac_c, white_even, 0, mac_b2, 1);
    EXPECT_TRUE(mediator.channels_complete());
    EXPECT_EQ(mediator.stats().lost, 0u);
    EXPECT_EQ(mediator.stats().recorded, 4u);
}

TEST_F(MediatorTest, WhiteFramesBeforeOurCutCountButAreNotRecorded) {
    arm();
    receive(mac_a, white_even);
    receive(mac_a, white_even);
    mediator.cut();
    expect({{{mac_a, mac_b}, 2}});
    EXPECT_TRUE(mediator.channels_complete());
    EXPECT_EQ(mediator.stats().recorded, 0u);
}

TEST_F(MediatorTest, NothingExpectedIsComplete) {
    cut();
    expect({});
    EXPECT_TRUE(mediator.channels_complete());
}

TEST_F(MediatorTest, RedClosesAChannelAndWhatIsMissingIsLost) {
    cut();
    expect({{{mac_a, mac_b}, 5}, {{mac_c, mac_b}, 1}});
    receive(mac_a, white_even);
    receive(mac_a, red_even);
    EXPECT_FALSE(mediator.channels_complete()); // c is open
    receive(mac_c, white_even);
    EXPECT_TRUE(mediator.channels_complete());
    EXPECT_EQ(mediator.stats().lost, 4u);
}

TEST_F(MediatorTest, GivingUpDeclaresLosses) {
    cut();
    expect({{{mac_a, mac_b}, 5}});
    receive(mac_a, white_even);
    mediator.close_channels();
    EXPECT_TRUE(mediator.channels_complete());
    EXPECT_EQ(mediator.stats().lost, 4u);
    receive(mac_a, white_even); // too late: delivered, but still counted as lost
    EXPECT_EQ(mediator.stats().lost, 4u);
    EXPECT_EQ(mediator.stats().recorded, 1u);
}

TEST_F(MediatorTest, ExpectIsChecked) {
    std::string error;
    EXPECT_FALSE(mediator.expect({}, {}, error));
    arm();
    EXPECT_FALSE(mediator.expect({}, {}, error));
    mediator.cut();
    EXPECT_FALSE(mediator.expect({{{mac_a, mac_c}, 1}}, {}, error));
    EXPECT_NE(error.find(mac_c.to_string()), std::string::npos) << error;
    EXPECT_FALSE(mediator.expect({{{outsider, mac_b}, 1}}, {}, error));
    EXPECT_FALSE(mediator.expect({{{colored(table, mac_a, red_even), mac_b}, 1}}, {}, error));
    EXPECT_TRUE(mediator.expect({}, {}, error));
    EXPECT_FALSE(mediator.expect({}, {}, error));
}

TEST_F(MediatorTest, WhiteSentIsCountedByPair) {
    arm();
    send(mac_a);
    send(mac_a);
    frame(HS_FROM_GUEST, mac_b2, mac_c, 0, 1);
    send(outsider);
    send(everyone);
    mediator.cut();
    send(mac_a);
    EXPECT_EQ(mediator.white_sent(), (PairCounts{{{mac_b, mac_a}, 2}, {{mac_b2, mac_c}, 1}}));
    EXPECT_EQ(mediator.stats().white_sent, 3u);
    EXPECT_EQ(mediator.stats().red_sent, 1u);
}

// A member adds its NICs for each epoch, a restored member for the first time: recorded frames must
// name the same NICs.
TEST_F(MediatorTest, NicsKeepTheirNumbers) {
    for (uint64_t epoch = 2; epoch < 5; epoch++) {
        mediator.remove_nic(0);
        EXPECT_EQ(mediator.add_nic("net0", mac_b, 12), 0u);
        mediator.remove_nic(1);
        EXPECT_EQ(mediator.add_nic("net1", mac_b2, 12), 1u);
        ASSERT_EQ(mediator.nics().size(), 2u);
        cut(epoch);
        receive(mac_a, epoch % 2 ? white_odd : white_even, 7, mac_b2, 1);
        ASSERT_EQ(mediator.record().frames().size(), 1u);
        EXPECT_EQ(mediator.record().frames()[0].nic, 1u);
        mediator.reset();
    }
    EXPECT_EQ(mediator.add_nic("net2", mac_c, 12), 2u);
}

TEST_F(MediatorTest, TheRecordIsBounded) {
    cut();
    std::vector<uint8_t> data = bytes(colored(table, mac_a, white_even), mac_b, 0);
    data.resize(60'000);
    const hs_frame given{0, HS_TO_GUEST, data.data(), data.size(), 0, 0};
    Mac source;
    for (int i = 0; i < 2000; i++) {
        EXPECT_EQ(mediator.frame(given, 0, source), HS_PASS);
    }
    const hs_mediator_stats stats = mediator.stats();
    EXPECT_EQ(stats.recorded + stats.unrecorded, 2000u);
    EXPECT_GT(stats.unrecorded, 0u);
    EXPECT_LE(stats.recorded_bytes, uint64_t{64} << 20);
}

TEST_F(MediatorTest, WhatTheRecordHadNoRoomForIsLost) {
    arm();
    std::vector<uint8_t> data = bytes(colored(table, mac_a, white_even), mac_b, 0, 12);
    data.resize(60'000);
    const hs_frame large{0, HS_TO_GUEST, data.data(), data.size(), 12, 0};
    Mac source;
    mediator.cut();
    for (int i = 0; i < 2000; i++) {
        mediator.frame(large, 0, source); // the guest gets every frame, the record does not
    }
    EXPECT_EQ(mediator.stats().lost, 0u); // losses are declared when the channels are closed
    expect({{{mac_a, mac_b}, 2003}});
    receive(mac_a, white_even, 1);
    EXPECT_EQ(recorded().back(), 1) << "a small frame still has room";
    receive(mac_a, red_even);
    EXPECT_TRUE(mediator.channels_complete());
    const hs_mediator_stats stats = mediator.stats();
    EXPECT_GT(stats.unrecorded, 0u);
    EXPECT_EQ(stats.lost, stats.unrecorded + 2); // two more were sent and never came
    mediator.end_coloring();
    arm(3); // the next epoch begins with nothing lost
    EXPECT_EQ(mediator.stats().lost, 0u);
    EXPECT_EQ(mediator.stats().unrecorded, 0u);
}

} // namespace
} // namespace hotsnap::network
