// SPDX-License-Identifier: GPL-2.0-or-later
#include "network/ip_packet.h"

#include "ip_frames.h"

namespace hotsnap::network {
namespace {

std::optional<IpAddress> claimed(const Frame &frame, size_t head) {
    return claimed_address(*FrameView::parse(frame.data(), head, frame.size(), 0));
}
std::optional<IpAddress> claimed(const Frame &frame) {
    return claimed(frame, frame.size());
}

TEST(IpAddressTest, ReadsAndWrites) {
    for (const char *text : {"10.0.0.1", "255.255.255.255", "2001:db8::1", "::", "fe80::1"}) {
        EXPECT_EQ(ip(text).to_string(), text);
    }
    for (const std::string &text : {std::string(), std::string("10.0.0"), std::string("10.0.0.256"),
                                    std::string("2001:db8::1/64"), std::string("10.0.0.1\0", 9)}) {
        EXPECT_FALSE(IpAddress::parse(text)) << text;
    }
    EXPECT_NE(ip("10.0.0.1"), ip("::10.0.0.1"));
}

TEST(IpAddressTest, RoutersForwardToSomeOnly) {
    for (const char *text : {"10.0.0.1", "192.168.1.1", "223.1.1.1", "2001:db8::1", "fd00::1"}) {
        EXPECT_TRUE(ip(text).is_routable()) << text;
    }
    for (const char *text : {"0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.1.1", "224.0.0.1",
                             "255.255.255.255", "::", "::1", "fe80::1", "febf::1", "ff02::1"}) {
        EXPECT_FALSE(ip(text).is_routable()) << text;
    }
}

TEST(IpPacketTest, ClaimsAreReadFromArpAndNeighborDiscovery) {
    for (const int vlans : {0, 1, 2}) {
        EXPECT_EQ(claimed(arp(mac_b, "10.0.0.2", 1, vlans)), ip("10.0.0.2"));
        EXPECT_EQ(claimed(arp(mac_b, "10.0.0.2", 2, vlans)), ip("10.0.0.2"));
    }
    EXPECT_EQ(claimed(discovery(mac_b, 135, "fd00::2", "fd00::9")), ip("fd00::2"));
    EXPECT_EQ(claimed(discovery(mac_b, 136, "fe80::2", "fd00::2")), ip("fd00::2"));
    EXPECT_FALSE(claimed(arp(mac_b, "0.0.0.0")));     // asks whether one is free
    EXPECT_FALSE(claimed(arp(mac_b, "10.0.0.2", 3))); // RARP's operation
    EXPECT_FALSE(claimed(arp(mac_b, "169.254.1.1"))); // no router forwards to it
    EXPECT_FALSE(claimed(discovery(mac_b, 135, "::", "fd00::2")));
    EXPECT_FALSE(claimed(discovery(mac_b, 134, "fd00::2", "fd00::2")));
    EXPECT_FALSE(claimed(discovery(mac_b, 135, "fd00::2", "fd00::9", 64))); // it was forwarded
    EXPECT_FALSE(claimed(packet(mac_b, everyone, "10.0.0.2", "10.0.0.3")));
}

// With AddressSanitizer, a byte read behind the head is an error.
TEST(IpPacketTest, NothingBehindTheHeadIsRead) {
    for (const Frame &whole :
         {arp(mac_b, "10.0.0.2", 1, 1), discovery(mac_b, 136, "fe80::2", "fd00::2"),
          packet(mac_b, mac_a, "10.0.0.2", "10.0.0.1", 1)}) {
        for (size_t head = 14; head <= whole.size(); head++) {
            const Frame part(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(head));
            const FrameView view = *FrameView::parse(part.data(), head, whole.size(), 0);
            EXPECT_TRUE(!claimed_address(view) || head >= 14 + 18);
            EXPECT_TRUE(!ip_ends(view) || head >= 14 + 20);
        }
    }
}

TEST(IpPacketTest, EndsOfAPacket) {
    const auto ends = [](const Frame &frame) {
        const auto found = ip_ends(*FrameView::parse(frame.data(), frame.size(), 0));
        return found ? found->source.to_string() + ">" + found->destination.to_string() : "";
    };
    EXPECT_EQ(ends(packet(mac_a, mac_b, "10.0.0.1", "10.0.0.2", 1)), "10.0.0.1>10.0.0.2");
    EXPECT_EQ(ends(packet(mac_a, mac_b, "fd00::1", "fd00::2")), "fd00::1>fd00::2");
    EXPECT_EQ(ends(arp(mac_a, "10.0.0.1")), "");
}

} // namespace
} // namespace hotsnap::network
