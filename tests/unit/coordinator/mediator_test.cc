// SPDX-License-Identifier: GPL-2.0-or-later
// The packet mediator, rule by rule. That the rules together make a consistent cut is shown by the
// simulation.
#include <cstring>

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "mediator.h"

namespace hotsnap {
namespace {

const Mac mac_a = *Mac::parse("52:54:00:00:00:0a"), mac_b = *Mac::parse("52:54:00:00:00:0b");
const Mac mac_b2 = *Mac::parse("52:54:00:00:00:bb"), mac_c = *Mac::parse("52:54:00:00:00:0c");
const Mac outsider = *Mac::parse("02:00:00:00:00:01"), everyone(0xffff'ffff'ffff);

constexpr uint8_t white_even = 0x04, white_odd = 0x14, red_even = 0x08, red_odd = 0x18;

std::vector<uint8_t> bytes(Mac from, Mac to, uint8_t payload, size_t vnet = 0) {
    std::vector<uint8_t> data(vnet);
    for (const Mac mac : {to, from}) {
        for (int shift = 40; shift >= 0; shift -= 8) {
            data.push_back(static_cast<uint8_t>(mac.value() >> shift));
        }
    }
    data.insert(data.end(), {0x08, 0x00, payload});
    return data;
}

struct Seen {
    hs_verdict verdict;
    uint8_t mask; // by which the source octet was changed
};

// A member "b" with two NICs, among "a" and "c", in epoch 2 if not said otherwise.
class MediatorTest : public testing::Test {
  protected:
    MediatorTest() {
        mediator.add_nic("net0", mac_b);
        mediator.add_nic("net1", mac_b2);
    }

    static std::vector<Member> members() {
        return {{"a", {mac_a}}, {"b", {mac_b, mac_b2}}, {"c", {mac_c}}};
    }
    void prepare(uint64_t epoch = 2, bool coloring = true) {
        std::string error;
        ASSERT_TRUE(mediator.prepare(epoch, "b", members(), coloring, error)) << error;
    }
    void arm(uint64_t epoch = 2, bool coloring = true) {
        prepare(epoch, coloring);
        mediator.start_coloring();
    }
    void cut(uint64_t epoch = 2, bool coloring = true) {
        arm(epoch, coloring);
        mediator.cut();
    }

    Seen frame(hs_direction direction, Mac from, Mac to, uint8_t payload = 0, uint32_t nic = 0) {
        const std::vector<uint8_t> data = bytes(from, to, payload, 12);
        uint8_t octet = 0;
        const hs_frame given{nic, direction, data.data(), data.size(), 12};
        const hs_verdict verdict = mediator.frame(given, 1'000, octet);
        return {verdict, static_cast<uint8_t>(octet ^ from.first_octet())};
    }
    Seen send(Mac to, uint8_t payload = 0) { return frame(HS_FROM_GUEST, mac_b, to, payload); }
    Seen receive(Mac from, uint8_t color = 0, uint8_t payload = 0, Mac to = mac_b,
                 uint32_t nic = 0) {
        return frame(HS_TO_GUEST, from.masked(color), to, payload, nic);
    }
    // Payloads of what is released now; the sources must be natural again.
    std::vector<int> released(hs_direction direction) {
        std::vector<int> payloads;
        for (hs_frame held; mediator.next_released(held);) {
            EXPECT_EQ(held.direction, direction);
            EXPECT_EQ(held.vnet_header_size, 12u);
            EXPECT_TRUE(held.data[12 + 6] == 0x52 || held.data[12 + 6] == 0x02);
            payloads.push_back(held.data[held.size - 1]);
        }
        return payloads;
    }
    std::vector<int> recorded() const {
        std::vector<int> payloads;
        for (const ChannelFrame &f : mediator.record().frames()) {
            EXPECT_EQ(f.data[12 + 6], 0x52);
            payloads.push_back(f.data.back());
        }
        return payloads;
    }
    void expect(PairCounts counts) {
        std::string error;
        ASSERT_TRUE(mediator.expect(counts, error)) << error;
    }

    Mediator mediator;
};

using Payloads = std::vector<int>;

TEST_F(MediatorTest, WithoutATableNothingIsTouched) {
    EXPECT_EQ(send(mac_a).mask, 0);
    EXPECT_EQ(receive(mac_a, red_even).mask, 0);
    EXPECT_EQ(receive(mac_a).verdict, HS_PASS);
    EXPECT_EQ(send(everyone).verdict, HS_PASS);
}

TEST_F(MediatorTest, ColorsFollowTheEpoch) {
    prepare(2);
    EXPECT_EQ(send(mac_a).mask, 0);
    mediator.start_coloring();
    EXPECT_EQ(send(mac_a).mask, white_even);
    mediator.cut();
    EXPECT_EQ(send(mac_a).mask, red_even);
    mediator.end_coloring();
    EXPECT_EQ(send(mac_a).mask, 0);
    mediator.reset();
    arm(3);
    EXPECT_EQ(send(mac_a).mask, white_odd);
    mediator.cut();
    EXPECT_EQ(send(mac_a).mask, red_odd);
    mediator.reset();
    EXPECT_EQ(send(mac_a).mask, 0);
}

TEST_F(MediatorTest, OnlyOwnFramesToMembersAreColored) {
    arm();
    EXPECT_EQ(send(outsider).mask, 0);
    EXPECT_EQ(send(everyone).mask, 0);
    EXPECT_EQ(frame(HS_FROM_GUEST, outsider, mac_a).mask, 0);
    EXPECT_EQ(frame(HS_FROM_GUEST, mac_b, mac_a, 0, 1).mask, 0); // net1 has another MAC
    EXPECT_EQ(frame(HS_FROM_GUEST, mac_b2, mac_a, 0, 1).mask, white_even);
    EXPECT_EQ(frame(HS_FROM_GUEST, mac_b, mac_b2).mask, white_even); // own NICs are members, too
    EXPECT_EQ(send(mac_a.masked(0x20)).mask, 0);
}

TEST_F(MediatorTest, AForgedColorDoesNotLeave) {
    arm();
    EXPECT_EQ(frame(HS_FROM_GUEST, mac_a.masked(red_even), mac_c).verdict, HS_HOLD);
    EXPECT_EQ(mediator.stats().dropped, 1u);
    mediator.cut();
    EXPECT_EQ(released(HS_TO_GUEST), Payloads());
}

TEST_F(MediatorTest, ReceivedColorsAreRestored) {
    prepare();
    for (const uint8_t color : {white_even, white_odd, red_even, red_odd}) {
        EXPECT_EQ(receive(mac_a, color).mask, color);
        EXPECT_EQ(receive(mac_a, color).verdict, HS_PASS);
    }
    EXPECT_EQ(receive(outsider, white_even).mask, 0);
    mediator.start_coloring();
    mediator.cut();
    mediator.end_coloring();
    mediator.reset();
    EXPECT_EQ(receive(mac_a, red_even).mask, red_even); // late, after the epoch
}

TEST_F(MediatorTest, LateFramesOfFormerGroupsAreRestored) {
    prepare();
    for (uint64_t epoch = 3; epoch < 10; epoch++) {
        mediator.reset();
        EXPECT_EQ(receive(mac_c, red_even).mask, red_even);
        std::string error;
        ASSERT_TRUE(
            mediator.prepare(epoch, "b", {{"a", {mac_a}}, {"b", {mac_b, mac_b2}}}, true, error));
        EXPECT_EQ(receive(mac_c, red_even).mask, red_even);
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
    EXPECT_EQ(receive(outsider, 0, 5, mac_b2, 1).verdict, HS_HOLD);
    EXPECT_EQ(receive(mac_a, 0, 6, everyone).verdict, HS_HOLD);
    EXPECT_EQ(released(HS_TO_GUEST), Payloads());
    EXPECT_EQ(send(mac_a).verdict, HS_PASS); // the guest goes on
    mediator.cut();
    EXPECT_EQ(released(HS_TO_GUEST), Payloads({2, 3, 4, 5, 6}));
    EXPECT_EQ(receive(mac_a, red_even, 7).verdict, HS_PASS);
    // Held, then received after the cut: channel state, if sent before the sender's.
    EXPECT_EQ(recorded(), Payloads({4, 6}));
    EXPECT_EQ(mediator.stats().on_the_fly, 2u);
    EXPECT_EQ(mediator.stats().held_to_guest, 5u);
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

TEST_F(MediatorTest, RecordsWhatWasSentBeforeTheSendersCut) {
    cut();
    EXPECT_EQ(receive(mac_a, white_even, 1).verdict, HS_PASS);
    receive(mac_a, 0, 2);                   // before it began to color
    receive(mac_a, 0, 3, everyone);         // broadcasts of red members wait
    receive(mac_a, red_odd, 4);             // of an older epoch
    receive(mac_a, white_odd, 5);           // of an aborted one
    receive(mac_a, red_even, 10);           // after the cut
    receive(outsider, 0, 11);               // no member
    receive(mac_a, 0, 12, outsider);        // not for us
    receive(mac_a, white_even, 13, mac_b2); // flooded: for our other NIC, which gets it, too
    EXPECT_EQ(recorded(), Payloads({1, 2, 3, 4, 5}));
    EXPECT_EQ(mediator.stats().recorded, 5u);
    mediator.close_channels();
    receive(mac_a, white_even, 14);
    EXPECT_EQ(mediator.stats().recorded, 5u);
}

TEST_F(MediatorTest, ChannelsAreCompleteByCount) {
    cut();
    receive(mac_a, white_even);
    EXPECT_FALSE(mediator.channels_complete()); // nobody knows yet what to expect
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
    receive(mac_a, white_even); // too late: delivered, and stays lost
    EXPECT_EQ(mediator.stats().lost, 4u);
    EXPECT_EQ(mediator.stats().recorded, 1u);
}

TEST_F(MediatorTest, ExpectIsChecked) {
    std::string error;
    EXPECT_FALSE(mediator.expect({}, error));
    arm();
    EXPECT_FALSE(mediator.expect({}, error));
    mediator.cut();
    EXPECT_FALSE(mediator.expect({{{mac_a, mac_c}, 1}}, error));
    EXPECT_NE(error.find(mac_c.to_string()), std::string::npos) << error;
    EXPECT_FALSE(mediator.expect({{{outsider, mac_b}, 1}}, error));
    EXPECT_FALSE(mediator.expect({{{mac_a.masked(red_even), mac_b}, 1}}, error));
    EXPECT_TRUE(mediator.expect({}, error));
    EXPECT_FALSE(mediator.expect({}, error));
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

TEST_F(MediatorTest, BroadcastsOfARedMemberWaitForTheEndOfColoring) {
    arm();
    EXPECT_EQ(send(everyone, 1).verdict, HS_PASS);
    mediator.cut();
    EXPECT_EQ(send(everyone, 2).verdict, HS_HOLD);
    EXPECT_EQ(frame(HS_FROM_GUEST, outsider, everyone, 3, 1).verdict, HS_HOLD);
    EXPECT_EQ(send(mac_a, 4).verdict, HS_PASS); // may overtake
    EXPECT_EQ(released(HS_FROM_GUEST), Payloads());
    mediator.end_coloring();
    EXPECT_EQ(send(everyone, 5).verdict, HS_HOLD); // behind the others
    EXPECT_EQ(released(HS_FROM_GUEST), Payloads({2, 3, 5}));
    EXPECT_EQ(send(everyone, 6).verdict, HS_PASS);
    EXPECT_EQ(mediator.stats().held_from_guest, 2u);
}

TEST_F(MediatorTest, ResetLetsAllGoInAnyState) {
    arm();
    receive(mac_a, red_even, 1);
    receive(mac_c, 0, 2);
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
    EXPECT_EQ(send(mac_a).mask, 0);
    EXPECT_EQ(receive(mac_a, red_even).verdict, HS_PASS);
    mediator.cut();
    EXPECT_EQ(send(mac_a).mask, 0);
    EXPECT_EQ(send(everyone).verdict, HS_PASS);
    receive(mac_a);
    EXPECT_EQ(recorded(), Payloads());
    EXPECT_EQ(mediator.stats().white_sent, 1u); // counts still
    expect({{{mac_a, mac_b}, 1}});
    EXPECT_TRUE(mediator.channels_complete());
}

TEST_F(MediatorTest, PrepareIsChecked) {
    std::string error;
    EXPECT_FALSE(mediator.prepare(2, "x", members(), true, error));
    EXPECT_NE(error.find("'x'"), std::string::npos) << error;
    EXPECT_FALSE(mediator.prepare(2, "b", {{"a", {mac_a}}, {"b", {mac_b}}}, true, error));
    EXPECT_NE(error.find("net1"), std::string::npos) << error;
    auto twins = members();
    twins[0].macs[0] = mac_b.masked(white_odd);
    EXPECT_FALSE(mediator.prepare(2, "b", twins, true, error));
    EXPECT_TRUE(mediator.prepare(2, "b", members(), true, error)) << error;
    EXPECT_FALSE(mediator.prepare(3, "b", members(), true, error));
    EXPECT_NE(error.find("reset"), std::string::npos) << error;
    mediator.remove_nic(1);
    mediator.reset();
    EXPECT_TRUE(mediator.prepare(2, "b", {{"a", {mac_a}}, {"b", {mac_b}}}, true, error)) << error;
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
    std::vector<uint8_t> data = bytes(mac_a.masked(red_even), mac_b, 0);
    data.resize(size_t{1} << 20);
    const hs_frame given{0, HS_TO_GUEST, data.data(), data.size(), 0};
    uint8_t octet = 0;
    for (int i = 0; i < 100; i++) {
        EXPECT_NE(mediator.frame(given, 0, octet), HS_PASS);
    }
    const hs_mediator_stats stats = mediator.stats();
    EXPECT_EQ(stats.held_to_guest + stats.dropped, 100u);
    EXPECT_EQ(stats.held_to_guest, 64u);
    mediator.cut();
    size_t count = 0;
    for (hs_frame held; mediator.next_released(held);) {
        count++;
    }
    EXPECT_EQ(count, 64u);
}

TEST_F(MediatorTest, TheRecordIsBounded) {
    cut();
    std::vector<uint8_t> data = bytes(mac_a.masked(white_even), mac_b, 0);
    data.resize(60'000);
    const hs_frame given{0, HS_TO_GUEST, data.data(), data.size(), 0};
    uint8_t octet = 0;
    for (int i = 0; i < 2000; i++) {
        EXPECT_EQ(mediator.frame(given, 0, octet), HS_PASS);
    }
    const hs_mediator_stats stats = mediator.stats();
    EXPECT_EQ(stats.recorded + stats.unrecorded, 2000u);
    EXPECT_GT(stats.unrecorded, 0u);
    EXPECT_LE(stats.recorded_bytes, uint64_t{64} << 20);
}

TEST_F(MediatorTest, TaggedFramesWork) {
    arm();
    std::vector<uint8_t> data = bytes(mac_a.masked(red_even), mac_b, 0);
    data[12] = 0x81;
    data[13] = 0x00;
    data.resize(64);
    const hs_frame given{0, HS_TO_GUEST, data.data(), data.size(), 0};
    uint8_t octet = 0;
    EXPECT_EQ(mediator.frame(given, 0, octet), HS_HOLD_AND_CUT);
}

TEST_F(MediatorTest, ShortFramesPassUntouched) {
    arm();
    for (size_t size = 0; size < 14; size++) {
        const std::vector<uint8_t> data(size, 0x5a);
        const hs_frame given{0, HS_TO_GUEST, data.data(), data.size(), 0};
        uint8_t octet = 0x77;
        EXPECT_EQ(mediator.frame(given, 0, octet), HS_PASS);
        EXPECT_EQ(octet, size > 6 ? 0x5a : 0);
    }
}

// In any order of calls and frames: what is held comes out once, in order, and nothing is left
// after a reset.
TEST(MediatorPropertyTest, WhatIsHeldComesOutOnceInOrder) {
    EXPECT_TRUE(rc::check([] {
        Mediator mediator;
        mediator.add_nic("net0", mac_b);
        const std::vector<Member> members = {{"a", {mac_a}}, {"b", {mac_b}}, {"c", {mac_c}}};
        std::map<int, std::vector<size_t>> in, out; // by direction and kind of destination
        size_t number = 0, epoch = 1;
        const auto stream_of = [](const hs_frame &f) { return f.direction * 2 + (f.data[0] & 1); };
        const auto take = [&](const hs_frame &f) {
            size_t value = 0;
            std::memcpy(&value, f.data + f.size - sizeof(value), sizeof(value));
            out[stream_of(f)].push_back(value);
        };
        const auto drain = [&] {
            for (hs_frame held; mediator.next_released(held);) {
                take(held);
            }
        };
        const auto steps = *rc::gen::inRange(1, 200);
        for (int i = 0; i < steps; i++) {
            std::string error;
            switch (*rc::gen::inRange(0, 16)) {
            case 0:
                mediator.prepare(epoch++, "b", members, *rc::gen::inRange(0, 8) != 0, error);
                break;
            case 1:
                mediator.start_coloring();
                break;
            case 2:
                mediator.cut();
                break;
            case 3:
                mediator.expect({{{mac_a, mac_b}, *rc::gen::inRange(0u, 5u)}}, error);
                break;
            case 4:
                mediator.close_channels();
                break;
            case 5:
                mediator.end_coloring();
                break;
            case 6:
                mediator.reset();
                break;
            case 7:
                drain();
                break;
            default: {
                const bool outward = *rc::gen::arbitrary<bool>();
                const Mac other = *rc::gen::element(mac_a, mac_c, outsider);
                const bool group = *rc::gen::inRange(0, 4) == 0;
                const uint8_t color = *rc::gen::element<uint8_t>(0, 0x04, 0x14, 0x08, 0x18);
                std::vector<uint8_t> data =
                    outward ? bytes(mac_b, group ? everyone : other, 0)
                            : bytes(other.masked(color), group ? everyone : mac_b, 0);
                data.resize(data.size() + sizeof(number));
                std::memcpy(data.data() + data.size() - sizeof(number), &number, sizeof(number));
                const hs_frame given{0, outward ? HS_FROM_GUEST : HS_TO_GUEST, data.data(),
                                     data.size(), 0};
                in[stream_of(given)].push_back(number++);
                uint8_t octet = 0;
                if (mediator.frame(given, 0, octet) == HS_PASS) {
                    take(given);
                }
            }
            }
        }
        mediator.reset();
        drain();
        RC_ASSERT(in == out);
    }));
}

} // namespace
} // namespace hotsnap
