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

TEST_F(MediatorSendersTest, PlaybackTellsWhoSentBeforeTheGuestDoes) {
    const std::vector<uint8_t> data = Probe{0, mac_b2, Probe::Kind::moved, 0}.frame(mac_b, 12);
    mediator.played({net1, HS_FROM_GUEST, data.data(), data.size(), 12, 0}, now + second_ns);
    EXPECT_FALSE(mediator.has_own_address(net0));
    guest_sends(mac_b, net0);
    mediator.played({net1, HS_TO_GUEST, data.data(), data.size(), 12, 0}, now + second_ns);
    EXPECT_TRUE(mediator.has_own_address(net0));
}

} // namespace
} // namespace hotsnap::network
