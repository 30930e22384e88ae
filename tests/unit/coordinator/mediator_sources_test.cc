// SPDX-License-Identifier: GPL-2.0-or-later
// The packet mediator: frames with sources other than the NIC's own, and frames that wait.
#include "mediator_case.h"

namespace hotsnap::network {
namespace {

const Mac mac_x = *Mac::parse("52:54:00:00:00:e1"); // a station behind us
const Mac mac_y = *Mac::parse("52:54:00:00:00:e2"); // and one that appears later
const Mac silent = *Mac::parse("02:00:00:00:00:02");

// b sends for x, and so does c.
class MediatorSourcesTest : public MediatorTest {
  protected:
    static std::vector<Member> with_stations() {
        std::vector<Member> list = members();
        list[1].nics[0].sources = {mac_x};
        list[2].nics[0].sources = {mac_x};
        return list;
    }
    void arm_all(uint64_t epoch = 2) {
        std::string error;
        ASSERT_TRUE(mediator.prepare(epoch, "b", with_stations(), true, error)) << error;
        mediator.start_coloring();
        EXPECT_FALSE(mediator.armed());
    }
    // The source with which a frame from the guest leaves. `moved` gets those of the probes ahead.
    Mac out(Mac from, Mac to, std::vector<Mac> *moved = nullptr) {
        const std::vector<uint8_t> data = bytes(from, to, 0, 12);
        Mac source;
        const hs_verdict verdict =
            mediator.frame({0, HS_FROM_GUEST, data.data(), data.size(), 12, 0}, now, source);
        if (verdict == HS_HOLD_AND_RELEASE) {
            for (hs_frame held; mediator.next_released(held, now);) {
                const auto view = FrameView::parse(held.data, held.size, held.vnet_header_size);
                source = view->source();
                if (const auto probe = Probe::parse(*view)) {
                    EXPECT_EQ(probe->kind, Probe::Kind::moved);
                    EXPECT_EQ(probe->nic, mac_b);
                    if (moved) {
                        moved->push_back(source);
                    }
                }
            }
            return source; // the frame comes last
        }
        EXPECT_EQ(verdict, HS_PASS);
        return source;
    }
    void hear(const Probe &probe, Mac source) {
        const std::vector<uint8_t> data = probe.frame(source, 12);
        Mac out;
        EXPECT_EQ(mediator.frame({0, HS_TO_GUEST, data.data(), data.size(), 12, 0}, now, out),
                  HS_HOLD);
    }
    // A frame sent by that NIC for `from`.
    Mac hop(Mac nic, Mac from, Tone tone) const {
        return stations.alias(*stations.source(*stations.nic(nic), from), tint_of(tone));
    }

    const MemberTable stations = table_of(with_stations());
};

TEST_F(MediatorSourcesTest, SourcesAreLearnedAndListed) {
    frame(HS_FROM_GUEST, mac_x, outsider);
    frame(HS_FROM_GUEST, mac_b, outsider); // its own is no other
    now += 100 * second_ns;
    frame(HS_FROM_GUEST, mac_y, everyone);
    EXPECT_EQ(mediator.list_nics(),
              (std::vector<MemberNic>{{"net0", mac_b, {mac_y, mac_x}}, {"net1", mac_b2, {}}}));
    mediator.remove_nic(0);
    mediator.add_nic("net0", mac_b, 12); // for the next epoch
    EXPECT_EQ(mediator.list_nics()[0].sources.size(), 2u);
    now += 250 * second_ns;
    receive(outsider);
    EXPECT_EQ(mediator.list_nics()[0].sources, std::vector<Mac>{mac_y}); // switches forget, too
}

TEST_F(MediatorSourcesTest, AGuestThatMakesUpSourcesIsBounded) {
    for (uint64_t i = 0; i < 10'000; i++) {
        frame(HS_FROM_GUEST, Mac(0x5254'0100'0000 + i), outsider);
    }
    const MemberNic nic = mediator.list_nics()[0];
    EXPECT_EQ(nic.sources.size(), 256u);
    EXPECT_FALSE(nic.complete);
}

TEST_F(MediatorSourcesTest, TheColorSaysWhichNicSends) {
    arm_all();
    EXPECT_EQ(out(mac_x, mac_a), hop(mac_b, mac_x, white_even));
    EXPECT_EQ(out(mac_b, mac_x), hop(mac_b, mac_b, white_even)); // x is behind c, too
    mediator.cut();
    EXPECT_EQ(out(mac_x, mac_a), hop(mac_b, mac_x, red_even));
    EXPECT_EQ(mediator.white_sent(), (PairCounts{{{mac_b, mac_a}, 1}, {{mac_b, mac_x}, 1}}));
}

TEST_F(MediatorSourcesTest, TheReceiverSeesTheSourceAgainAndCountsForTheHop) {
    arm_all();
    const std::vector<uint8_t> data = bytes(hop(mac_c, mac_x, white_even), mac_b, 0, 12);
    Mac source;
    EXPECT_EQ(mediator.frame({0, HS_TO_GUEST, data.data(), data.size(), 12, 0}, now, source),
              HS_PASS);
    EXPECT_EQ(source, mac_x);
    mediator.cut();
    expect({{{mac_c, mac_b}, 1}});
    EXPECT_TRUE(mediator.channels_complete());
    EXPECT_EQ(mediator.unexpected(), PairCounts());
}

TEST_F(MediatorSourcesTest, ARedHopForcesTheCutWhateverItsSource) {
    arm_all();
    EXPECT_EQ(frame(HS_TO_GUEST, hop(mac_c, mac_x, red_even), mac_b).verdict, HS_HOLD_AND_CUT);
}

TEST_F(MediatorSourcesTest, WhatCannotCarryAColorWaitsFromArmOn) {
    arm_all();
    EXPECT_EQ(frame(HS_FROM_GUEST, mac_b, everyone, 1).verdict, HS_HOLD);
    EXPECT_EQ(frame(HS_FROM_GUEST, mac_y, mac_a, 2).verdict, HS_HOLD);  // no alias
    EXPECT_EQ(frame(HS_FROM_GUEST, mac_b, silent, 3).verdict, HS_HOLD); // whose is it?
    EXPECT_EQ(frame(HS_FROM_GUEST, mac_y, outsider).verdict, HS_PASS);
    EXPECT_EQ(frame(HS_FROM_GUEST, mac_b2, mac_a, 4).verdict, HS_HOLD); // net1's, through net0
    mediator.cut();
    EXPECT_EQ(frame(HS_FROM_GUEST, mac_y, mac_a, 5).verdict, HS_HOLD);
    // Those that were sent before the cut are channel state, and are to leave after a restore.
    EXPECT_EQ(mediator.stats().recorded_from_guest, 4u);
    for (const ChannelFrame &f : mediator.record().frames()) {
        EXPECT_TRUE(f.from_guest);
    }
    EXPECT_EQ(released(HS_FROM_GUEST), Payloads());
    now += 7'000'000;
    mediator.end_coloring();
    EXPECT_EQ(released(HS_FROM_GUEST), Payloads({1, 2, 3, 4, 5}));
    const hs_mediator_stats stats = mediator.stats();
    EXPECT_EQ(stats.waited_group, 1u);
    EXPECT_EQ(stats.waited_source, 3u);
    EXPECT_EQ(stats.waited_destination, 1u);
    EXPECT_EQ(stats.waited_source_us_max, 7000u);
    EXPECT_EQ(stats.recorded, 4u);
}

TEST_F(MediatorSourcesTest, ANeighborThatCameLatelyMayBeAMembers) {
    receive(silent); // since now
    mediator.list_nics();
    arm_all();
    EXPECT_EQ(frame(HS_FROM_GUEST, mac_b, silent).verdict, HS_HOLD);
    mediator.reset();
    released(HS_FROM_GUEST);
    now += 20 * second_ns;
    receive(silent);
    mediator.list_nics();
    arm_all(3);
    EXPECT_EQ(frame(HS_FROM_GUEST, mac_b, silent).verdict, HS_PASS);
    mediator.reset();
    now += 100 * second_ns; // silent for so long that switches may have forgotten it
    receive(outsider);
    mediator.list_nics();
    arm_all(4);
    EXPECT_EQ(frame(HS_FROM_GUEST, mac_b, silent).verdict, HS_HOLD);
}

TEST_F(MediatorSourcesTest, WhenAListIsNotCompleteNobodyIsTheOutside) {
    std::string error;
    std::vector<Member> list = with_stations();
    list[0].nics[0].complete = false;
    ASSERT_TRUE(mediator.prepare(2, "b", list, true, error)) << error;
    mediator.start_coloring();
    EXPECT_EQ(frame(HS_FROM_GUEST, mac_b, outsider).verdict, HS_HOLD);
}

TEST_F(MediatorSourcesTest, ProbesTellWhoHearsWhom) {
    // One is early, one of another epoch, one of no member.
    hear({2, mac_c, Probe::Kind::natural}, mac_c);
    hear({1, mac_a, Probe::Kind::natural}, mac_a);
    arm_all();
    EXPECT_EQ(mediator.heard(), (PairCounts{{{mac_c, mac_b}, heard_natural}}));
    hear({2, mac_a, Probe::Kind::alias}, hop(mac_a, mac_a, white_even));
    hear({2, outsider, Probe::Kind::natural}, outsider);
    EXPECT_EQ(mediator.heard(),
              (PairCounts{{{mac_c, mac_b}, heard_natural}, {{mac_a, mac_b}, heard_alias}}));
    frame(HS_TO_GUEST, hop(mac_c, mac_x, white_even), mac_b);
    EXPECT_EQ(mediator.heard().at({mac_c, mac_b}), heard_natural | heard_alias);
    EXPECT_EQ(released(HS_TO_GUEST), Payloads()); // no guest sees a probe
}

TEST_F(MediatorSourcesTest, OurProbesLeaveWithAliasesFirst) {
    arm_all();
    mediator.probe();
    std::vector<Mac> sources;
    for (hs_frame held; mediator.next_released(held, now);) {
        const auto view = FrameView::parse(held.data, held.size, held.vnet_header_size);
        ASSERT_TRUE(view);
        const auto probe = Probe::parse(*view);
        ASSERT_TRUE(probe);
        EXPECT_EQ(probe->epoch, 2u);
        EXPECT_EQ(probe->kind == Probe::Kind::alias, view->source() != probe->nic);
        sources.push_back(view->source());
    }
    const Mac first = hop(mac_b, mac_b, white_even), second = hop(mac_b2, mac_b2, white_even);
    EXPECT_EQ(sources, (std::vector<Mac>{first, first, mac_b, second, second, mac_b2}));
}

TEST_F(MediatorSourcesTest, AnAddressThatHasMovedToUsIsAnnounced) {
    arm_all();
    std::vector<Mac> moved;
    out(mac_b, mac_a, &moved);
    EXPECT_EQ(moved, std::vector<Mac>()); // nobody else sends for it
    EXPECT_EQ(out(mac_x, mac_a, &moved), hop(mac_b, mac_x, white_even));
    EXPECT_EQ(moved, std::vector<Mac>{mac_x});
    out(mac_x, mac_a, &moved);
    EXPECT_EQ(moved.size(), 1u);                                         // once
    hear({2, mac_c, Probe::Kind::moved}, mac_x);                         // to c
    EXPECT_EQ(out(mac_x, mac_a, &moved), hop(mac_b, mac_x, white_even)); // and back
    EXPECT_EQ(moved, (std::vector<Mac>{mac_x, mac_x}));
    EXPECT_EQ(mediator.stats().white_sent, 4u);
    // A gratuitous ARP does it, too, though itself it waits.
    hear({2, mac_c, Probe::Kind::moved}, mac_x);
    EXPECT_EQ(frame(HS_FROM_GUEST, mac_x, everyone).verdict, HS_HOLD_AND_RELEASE);
    hs_frame held;
    ASSERT_TRUE(mediator.next_released(held, now));
    EXPECT_TRUE(Probe::parse(*FrameView::parse(held.data, held.size, held.vnet_header_size)));
    EXPECT_FALSE(mediator.next_released(held, now));
    EXPECT_EQ(frame(HS_FROM_GUEST, mac_x, everyone).verdict, HS_HOLD);
}

TEST_F(MediatorSourcesTest, ChannelsStayOpenUntilTheMarksThatAreDueHaveCome) {
    arm_all();
    mediator.cut();
    std::string error;
    EXPECT_FALSE(mediator.expect({}, {{{mac_a, mac_c}, 1}}, error)); // not ours
    ASSERT_TRUE(mediator.expect({}, {{{mac_a, mac_b}, 1}, {{mac_c, mac_b}, 1}}, error)) << error;
    EXPECT_FALSE(mediator.channels_complete());
    const auto hear_mark = [&](Mac nic) {
        const std::vector<uint8_t> data = Probe{2, nic, Probe::Kind::mark}.frame(nic, 12);
        Mac out;
        mediator.frame({0, HS_TO_GUEST, data.data(), data.size(), 12, 0}, now, out);
    };
    receive(mac_a, natural, 7); // ahead of the mark, so sent before the cut
    hear_mark(mac_a);
    hear_mark(mac_a); // it comes twice
    EXPECT_FALSE(mediator.channels_complete());
    hear_mark(mac_c);
    EXPECT_TRUE(mediator.channels_complete());
    EXPECT_EQ(recorded(), Payloads({7}));
    EXPECT_EQ(mediator.stats().unmarked, 0u);
    mediator.reset();
    cut(3);
    ASSERT_TRUE(mediator.expect({}, {{{mac_a, mac_b}, 1}}, error)) << error;
    mediator.close_channels();
    EXPECT_EQ(mediator.stats().unmarked, 1u);
}

TEST_F(MediatorSourcesTest, OurMarksLeaveTwiceFromEachNic) {
    arm_all();
    mediator.mark(); // there is no cut yet
    hs_frame held;
    EXPECT_FALSE(mediator.next_released(held, now));
    mediator.cut();
    mediator.mark();
    std::vector<Mac> marks;
    while (mediator.next_released(held, now)) {
        const auto probe =
            Probe::parse(*FrameView::parse(held.data, held.size, held.vnet_header_size));
        ASSERT_TRUE(probe && probe->kind == Probe::Kind::mark);
        marks.push_back(probe->nic);
    }
    EXPECT_EQ(marks, (std::vector<Mac>{mac_b, mac_b, mac_b2, mac_b2}));
}

TEST_F(MediatorSourcesTest, AGuestCannotSendAProbe) {
    arm_all();
    const std::vector<uint8_t> data = Probe{2, mac_b, Probe::Kind::natural}.frame(mac_b, 12);
    Mac out;
    EXPECT_EQ(mediator.frame({0, HS_FROM_GUEST, data.data(), data.size(), 12, 0}, now, out),
              HS_HOLD);
    mediator.reset();
    hs_frame held;
    EXPECT_FALSE(mediator.next_released(held, now));
    EXPECT_EQ(mediator.stats().dropped, 1u);
}

} // namespace
} // namespace hotsnap::network
