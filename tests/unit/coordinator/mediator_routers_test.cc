// SPDX-License-Identifier: GPL-2.0-or-later
// The packet mediator: frames between members by way of a router that is no member.
#include "ip_frames.h"
#include "mediator_case.h"

namespace hotsnap::network {
namespace {

const Mac station = *Mac::parse("02:00:00:00:00:0d"); // of no member, or behind one

// The outsider is a router. Member a is 10.0.0.1 and fd00::1, b 10.0.1.2, c 10.0.1.3.
class MediatorRoutersTest : public MediatorTest {
  protected:
    static std::vector<Member> with_addresses() {
        std::vector<Member> list = members();
        list[0].nics[0].addresses = {ip("10.0.0.1"), ip("fd00::1")};
        list[1].nics[0].addresses = {ip("10.0.1.2")};
        list[2].nics[0].addresses = {ip("10.0.1.3")};
        return list;
    }
    void install(std::vector<Member> list = with_addresses()) {
        std::string error;
        ASSERT_TRUE(mediator.prepare(2, "b", std::move(list), true, error)) << error;
    }
    hs_verdict give(hs_direction direction, const Frame &frame, uint32_t nic = 0) {
        Frame data(12);
        append(data, frame);
        Mac source;
        return mediator.frame({nic, direction, data.data(), data.size(), 12, 0}, now, source);
    }
    void emit(const Frame &frame, uint32_t nic = 0) { give(HS_FROM_GUEST, frame, nic); }
    void hear(const Frame &frame, uint32_t nic = 0) { give(HS_TO_GUEST, frame, nic); }
    std::vector<std::string> listed(size_t nic = 0) {
        std::vector<std::string> list;
        const std::vector<MemberNic> nics = mediator.list_nics();
        for (const IpAddress &address : nics.at(nic).addresses) {
            list.push_back(address.to_string());
        }
        return list;
    }
    uint64_t received() const { return mediator.stats().routed_received; }
    uint64_t sent() const { return mediator.stats().routed_sent; }
};

using Texts = std::vector<std::string>;

TEST_F(MediatorRoutersTest, AddressesOfTheGuestAreListed) {
    emit(arp(mac_b, "10.0.1.2"));
    now += second_ns;
    emit(discovery(mac_b, 136, "fe80::2", "fd00:1::2"), 0);
    hear(arp(outsider, "10.0.1.254"));
    EXPECT_EQ(listed(0), (Texts{"fd00:1::2", "10.0.1.2"}));
    EXPECT_EQ(listed(1), Texts());
    now += 10'000 * second_ns; // neighbors that talk all the time need not ask again
    emit(packet(mac_b, outsider, "10.0.1.2", "8.8.8.8"));
    EXPECT_EQ(listed(0).size(), 2u);
    mediator.remove_nic(0);
    mediator.add_nic("net0", mac_b, 12); // for the next epoch
    EXPECT_EQ(listed(0).size(), 2u);
}

TEST_F(MediatorRoutersTest, AGuestThatMakesUpAddressesIsBounded) {
    for (int i = 0; i < 1000; i++) {
        now++;
        emit(arp(mac_b,
                 ("10.1." + std::to_string(i / 250) + "." + std::to_string(i % 250 + 1)).c_str()));
    }
    const Texts list = listed();
    EXPECT_EQ(list.size(), most_addresses);
    EXPECT_EQ(list[0], "10.1.3.250");
}

TEST_F(MediatorRoutersTest, AnAddressThatANeighborTakesOverIsTheNeighbors) {
    emit(arp(mac_b, "10.0.1.9"));
    hear(arp(outsider, "10.0.1.9", 2));
    EXPECT_EQ(listed(), Texts());
    emit(arp(mac_b, "10.0.1.9")); // and back
    EXPECT_EQ(listed(), Texts{"10.0.1.9"});
}

TEST_F(MediatorRoutersTest, TwoNicsOnOneNetworkHearEachOther) {
    emit(arp(mac_b, "10.0.1.9"), 0); // a bond, whose other NIC takes over
    emit(arp(mac_b, "10.0.1.9"), 1);
    hear(arp(mac_b, "10.0.1.9"), 0);
    EXPECT_EQ(listed(0), Texts{"10.0.1.9"});
}

// Proxy ARP: what lies on the other side of a member is not the member's.
TEST_F(MediatorRoutersTest, AddressesThatAGuestForwardsForAreNotListed) {
    hear(arp(outsider, "10.0.0.77"), 1);
    emit(arp(mac_b, "10.0.0.77", 2), 0);
    EXPECT_EQ(listed(0), Texts());
    emit(arp(mac_b, "10.0.0.78", 2), 0); // the proxy answers first
    hear(arp(outsider, "10.0.0.78", 2), 1);
    EXPECT_EQ(listed(0), Texts());
    emit(arp(mac_b, "10.0.0.79", 2), 0); // nobody is heard to have it: it lies in the guest
    EXPECT_EQ(listed(0), Texts{"10.0.0.79"});
}

// A switch: the same, with the station's own MAC, which the other side has seen before.
TEST_F(MediatorRoutersTest, AddressesOfStationsThatASwitchForwardsForAreNotListed) {
    emit(packet(station, outsider, "10.0.0.77", "8.8.8.8"), 0);
    hear(arp(station, "10.0.0.77"), 1);
    emit(arp(station, "10.0.0.77"), 0);
    EXPECT_EQ(listed(0), Texts());
}

TEST_F(MediatorRoutersTest, AddressesOfAStationAreListedAsLongAsTheStation) {
    emit(arp(station, "10.0.1.77"));
    EXPECT_EQ(listed(), Texts{"10.0.1.77"});
    now += 400 * second_ns;
    emit(packet(mac_b, outsider, "10.0.1.2", "8.8.8.8"));
    EXPECT_EQ(listed(), Texts());
}

TEST_F(MediatorRoutersTest, FramesThroughTheRouterAreCounted) {
    install();
    hear(packet(outsider, mac_b, "10.0.0.1", "10.0.1.2"));
    EXPECT_EQ(received(), 1u); // from INSTALL on
    mediator.start_coloring();
    hear(packet(outsider, mac_b, "10.0.0.1", "10.0.1.2", 1));
    hear(packet(outsider, mac_b, "fd00::1", "fd00:1::2"));
    emit(packet(mac_b, outsider, "10.0.1.2", "10.0.0.1"));
    EXPECT_EQ(sent(), 1u);
    mediator.cut();
    hear(packet(outsider, everyone, "10.0.0.1", "10.0.1.255"));
    emit(packet(mac_b, outsider, "10.0.1.2", "10.0.0.1"));
    EXPECT_EQ(received(), 4u);
    EXPECT_EQ(sent(), 2u);
    EXPECT_TRUE(recorded().empty());
    mediator.close_channels();
    hear(packet(outsider, mac_b, "10.0.0.1", "10.0.1.2"));
    emit(packet(mac_b, outsider, "10.0.1.2", "10.0.0.1"));
    EXPECT_EQ(received(), 4u);
    EXPECT_EQ(sent(), 2u);
    mediator.reset();
    install();
    EXPECT_EQ(received(), 0u);
}

TEST_F(MediatorRoutersTest, OutsideAnEpochNothingIsCounted) {
    hear(packet(outsider, mac_b, "10.0.0.1", "10.0.1.2"));
    emit(packet(mac_b, outsider, "10.0.1.2", "10.0.0.1"));
    EXPECT_EQ(received() + sent(), 0u);
}

// A router to the outside, which the members reach each other without.
TEST_F(MediatorRoutersTest, AGatewayOfTheOutsideIsNoCause) {
    for (int i = 0; i < 2; i++) { // members are neighbors, too
        hear(packet(mac_c, mac_b, "10.0.1.3", "10.0.1.2"));
        hear(packet(outsider, mac_b, "8.8.8.8", "10.0.1.2"));
        now += 20 * second_ns;
    }
    mediator.list_nics();
    install();
    mediator.start_coloring();
    const auto all = [&] {
        hear(packet(outsider, mac_b, "8.8.8.8", "10.0.1.2"));
        hear(packet(outsider, mac_b, "10.0.1.254", "10.0.1.2")); // its own
        hear(packet(outsider, everyone, "10.0.1.254", "10.0.1.255"));
        hear(packet(outsider, station, "10.0.0.1", "8.8.8.8")); // a copy, on its way out
        hear(packet(outsider, mac_b, "10.0.1.2", "10.0.1.2"));  // our own
        hear(packet(mac_a, mac_b, "10.0.0.1", "10.0.1.2"));     // before its ARM
        hear(packet(colored(table_of(with_addresses()), mac_c, white_even), mac_b, "10.0.0.1",
                    "10.0.1.2")); // c is the router
        hear(arp(outsider, "10.0.1.254"));
        emit(packet(mac_b, outsider, "10.0.1.2", "8.8.8.8"));
        emit(packet(mac_b, outsider, "10.0.1.2", "10.0.1.2"));
        emit(packet(mac_b, mac_c, "10.0.1.2", "10.0.0.1")); // c is the router
        emit(packet(mac_b, mac_a, "10.0.1.2", "10.0.0.1"));
        emit(packet(mac_b, everyone, "10.0.1.2", "10.0.0.1"));
    };
    all();
    mediator.cut();
    all();
    EXPECT_EQ(received(), 0u);
    EXPECT_EQ(sent(), 0u);
}

// They have their place in our record, and leave when all have cut.
TEST_F(MediatorRoutersTest, FramesThatWaitAreNotCounted) {
    install();
    mediator.start_coloring();
    EXPECT_EQ(give(HS_FROM_GUEST, packet(mac_b, station, "10.0.1.2", "10.0.0.1")), HS_HOLD);
    EXPECT_EQ(sent(), 0u);
}

// What only we claim may lie on our other side: b answers for it there.
TEST_F(MediatorRoutersTest, OurOwnClaimsAreNoCause) {
    std::vector<Member> list = with_addresses();
    list[1].nics[0].addresses.push_back(ip("10.0.0.77"));
    install(list);
    mediator.start_coloring();
    hear(packet(outsider, mac_b2, "10.0.0.77", "10.0.1.3"), 1);
    emit(packet(mac_b2, outsider, "10.0.1.3", "10.0.0.77"), 1);
    EXPECT_EQ(received() + sent(), 0u);
    mediator.reset();
    list[2].nics[0].addresses.push_back(ip("10.0.0.77")); // c has it, too
    install(list);
    hear(packet(outsider, mac_b2, "10.0.0.77", "10.0.1.3"), 1);
    EXPECT_EQ(received(), 1u);
}

} // namespace
} // namespace hotsnap::network
