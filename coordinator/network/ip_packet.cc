// SPDX-License-Identifier: GPL-2.0-or-later
#include "network/ip_packet.h"

#include <algorithm>
#include <array>

namespace hotsnap::network {

namespace {

using Bytes = std::span<const uint8_t>;

constexpr uint16_t ether_arp = 0x0806, ether_ipv4 = 0x0800, ether_ipv6 = 0x86dd;
constexpr size_t ipv4_header = 20, ipv6_header = 40;

std::optional<IpAddress> routable(IpAddress address) {
    return address.is_routable() ? std::optional(address) : std::nullopt;
}

std::optional<IpAddress> arp_sender(Bytes arp) { // RFC 826
    constexpr std::array<uint8_t, 6> ethernet_ipv4 = {0, 1, 8, 0, 6, 4};
    constexpr size_t length = 28, operation_at = 7, sender_at = 14;
    if (arp.size() < length || !std::equal(ethernet_ipv4.begin(), ethernet_ipv4.end(), &arp[0]) ||
        arp[operation_at - 1] != 0 || (arp[operation_at] != 1 && arp[operation_at] != 2)) {
        return std::nullopt;
    }
    return routable(IpAddress::from_v4(&arp[sender_at]));
}

std::optional<IpAddress> neighbor_sender(Bytes ip) { // RFC 4861, 4.3 and 4.4
    constexpr uint8_t icmpv6 = 58, solicitation = 135, advertisement = 136;
    constexpr size_t next_header_at = 6, hop_limit_at = 7, source_at = 8;
    constexpr size_t target_at = ipv6_header + 8, length = target_at + 16;
    if (ip.size() < length || ip[next_header_at] != icmpv6 ||
        ip[hop_limit_at] != 255) { // it was forwarded, which these must not be
        return std::nullopt;
    }
    switch (ip[ipv6_header]) {
    case solicitation:
        return routable(IpAddress::from_v6(&ip[source_at]));
    case advertisement:
        return routable(IpAddress::from_v6(&ip[target_at]));
    default:
        return std::nullopt;
    }
}

} // namespace

std::optional<IpAddress> claimed_address(const FrameView &view) {
    const FrameView::Payload payload = view.payload();
    switch (payload.ether_type) {
    case ether_arp:
        return arp_sender(payload.bytes);
    case ether_ipv6:
        return neighbor_sender(payload.bytes);
    default:
        return std::nullopt;
    }
}

std::optional<IpEnds> ip_ends(const FrameView &view) {
    const auto [ether_type, ip] = view.payload();
    if (ether_type == ether_ipv4 && ip.size() >= ipv4_header) {
        return IpEnds{IpAddress::from_v4(&ip[12]), IpAddress::from_v4(&ip[16])};
    }
    if (ether_type == ether_ipv6 && ip.size() >= ipv6_header) {
        return IpEnds{IpAddress::from_v6(&ip[8]), IpAddress::from_v6(&ip[24])};
    }
    return std::nullopt;
}

} // namespace hotsnap::network
