// SPDX-License-Identifier: GPL-2.0-or-later
// The packet mediator: which NIC sends for an address now, and what the record says of it.
#include "mediator_case.h"

namespace hotsnap::network {
namespace {

const Mac mac_x = *Mac::parse("52:54:00:00:00:e1"); // a station behind us
constexpr uint32_t net0 = 0, net1 = 1;

class MediatorSendersTest : public MediatorTest {
  protected:
    void guest_sends(Mac source, uint32_t nic = net0) {
        now += second_ns;
        frame(HS_FROM_GUEST, source, outsider, 0, nic);
    }
    // Member a sends for the address from now on. The epoch begins before.
    void moves(Mac source, Probe::Kind kind) {
        if (!armed) {
            arm();
            armed = true;
        }
        const std::vector<uint8_t> data = Probe{2, mac_a, kind}.frame(source, 12);
        Mac out;
        EXPECT_EQ(mediator.frame({net0, HS_TO_GUEST, data.data(), data.size(), 12, 0}, now, out),
                  HS_HOLD);
    }
    // (NIC, source) of the probes in the record of a cut.
    std::vector<std::pair<uint32_t, Mac>> announced() {
        now += second_ns;
        if (armed) {
            mediator.cut();
        } else {
            cut();
        }
        std::vector<std::pair<uint32_t, Mac>> found;
        for (const ChannelFrame &one : mediator.record().frames()) {
            const auto view =
                FrameView::parse(one.data.data(), one.data.size(), one.data.size(), one.vnet_size);
            const auto probe = Probe::parse(*view);
            EXPECT_TRUE(one.from_guest && probe && probe->kind == Probe::Kind::moved);
            found.push_back({one.nic, view->source()});
        }
        EXPECT_EQ(mediator.stats().announced, found.size());
        EXPECT_EQ(mediator.stats().recorded, 0u);
        return found;
    }
    bool armed = false;
    using Found = std::vector<std::pair<uint32_t, Mac>>;
};

TEST_F(MediatorSendersTest, TheRecordSaysWhereAnAddressBesideTheNicsOwnIs) {
    guest_sends(mac_b);
    guest_sends(mac_x);
    EXPECT_EQ(announced(), (Found{{net0, mac_x}}));
}

TEST_F(MediatorSendersTest, WhenItHasMovedBetweenOurNicsTheLastCounts) {
    guest_sends(mac_x, net0);
    guest_sends(mac_x, net1);
    EXPECT_EQ(announced(), (Found{{net1, mac_x}}));
}

TEST_F(MediatorSendersTest, WhenAnotherMemberHasTakenItOverItIsNotOurs) {
    guest_sends(mac_x);
    now += second_ns;
    receive(mac_x, natural, 0, everyone);
    EXPECT_EQ(announced(), Found());
}

TEST_F(MediatorSendersTest, AnEchoOfOurOwnFrameTakesNothingAway) {
    guest_sends(mac_x, net0);
    now += 1'000'000; // both NICs are on one switch
    receive(mac_x, natural, 0, everyone, net1);
    EXPECT_EQ(announced(), (Found{{net0, mac_x}}));
}

TEST_F(MediatorSendersTest, AnotherMembersAnnouncementTakesItAwayAtOnce) {
    guest_sends(mac_x);
    now += 1'000'000;
    moves(mac_x, Probe::Kind::moved);
    EXPECT_EQ(announced(), Found());
}

TEST_F(MediatorSendersTest, WhoSendsAgainHasItAgain) {
    guest_sends(mac_x);
    moves(mac_x, Probe::Kind::moved);
    moves(mac_b, Probe::Kind::moved);
    EXPECT_FALSE(mediator.has_own_address(net0));
    guest_sends(mac_x);
    guest_sends(mac_b);
    EXPECT_TRUE(mediator.has_own_address(net0));
    EXPECT_EQ(announced(), (Found{{net0, mac_x}}));
}

TEST_F(MediatorSendersTest, AMoveThatARestoreUndoesTakesNothingAway) {
    guest_sends(mac_x);
    now += second_ns;
    moves(mac_x, Probe::Kind::moved_red);
    EXPECT_EQ(announced(), (Found{{net0, mac_x}}));
}

TEST_F(MediatorSendersTest, AnAddressThatIsSilentForLongIsForgotten) {
    guest_sends(mac_x);
    now += 400 * second_ns;
    guest_sends(mac_b);
    EXPECT_EQ(announced(), Found());
}

TEST_F(MediatorSendersTest, ABondMayUseTheAddressOfOneNicOnTheOther) {
    EXPECT_TRUE(mediator.has_own_address(net0)); // nobody has sent yet
    guest_sends(mac_b, net0);
    EXPECT_TRUE(mediator.has_own_address(net0));
    guest_sends(mac_b, net1);
    EXPECT_FALSE(mediator.has_own_address(net0));
    EXPECT_TRUE(mediator.has_own_address(net1));
    EXPECT_EQ(announced(), (Found{{net1, mac_b}}));
    mediator.reset();
    guest_sends(mac_b, net0);
    EXPECT_TRUE(mediator.has_own_address(net0));
}

// A bond fails over while a broadcast of its former NIC waits.
TEST_F(MediatorSendersTest, WhatWaitsForTheEndTakesNoAddressBack) {
    arm();
    EXPECT_EQ(frame(HS_FROM_GUEST, mac_x, everyone, 1, net0).verdict, HS_HOLD);
    now += second_ns;
    frame(HS_FROM_GUEST, mac_x, outsider, 2, net1);
    mediator.cut();
    const auto is_announcement = [](const std::vector<uint8_t> &data) {
        const auto view = FrameView::parse(data.data(), data.size(), data.size(), 12);
        return Probe::parse(*view) && view->source() == mac_x;
    };
    const auto &recorded = mediator.record().frames();
    ASSERT_EQ(recorded.size(), 3u);
    for (const size_t at : {0, 2}) {
        EXPECT_TRUE(is_announcement(recorded[at].data) && recorded[at].nic == net1) << at;
    }
    EXPECT_TRUE(!is_announcement(recorded[1].data) && recorded[1].nic == net0);
    mediator.end_coloring();
    std::vector<uint32_t> left_by;
    for (hs_frame held; mediator.next_released(held, now);) {
        left_by.push_back(held.nic);
        EXPECT_EQ(is_announcement({held.data, held.data + held.size}), held.nic == net1);
    }
    EXPECT_EQ(left_by, (std::vector<uint32_t>{net0, net1}));
}

TEST_F(MediatorSendersTest, PlaybackTellsWhoSentBeforeTheGuestDoes) {
    const std::vector<uint8_t> data = Probe{0, mac_b2, Probe::Kind::moved, 0}.frame(mac_b, 12);
    mediator.played({net1, HS_FROM_GUEST, data.data(), data.size(), 12, 0}, now + second_ns);
    EXPECT_FALSE(mediator.has_own_address(net0));
    hs_frame own;
    EXPECT_FALSE(mediator.announce_own(net0, own));
    ASSERT_TRUE(mediator.announce_own(net1, own));
    const auto view = FrameView::parse(own.data, own.size, own.vnet_header_size);
    EXPECT_TRUE(own.nic == net1 && own.direction == HS_FROM_GUEST && view->source() == mac_b2 &&
                Probe::parse(*view)->nic == mac_b2);
    EXPECT_FALSE(mediator.announce_own(7, own));
    guest_sends(mac_b, net0);
    mediator.played({net1, HS_TO_GUEST, data.data(), data.size(), 12, 0}, now + second_ns);
    EXPECT_TRUE(mediator.has_own_address(net0));
}

} // namespace
} // namespace hotsnap::network
