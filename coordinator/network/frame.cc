// SPDX-License-Identifier: GPL-2.0-or-later
#include "network/frame.h"

#include <algorithm>

namespace hotsnap::network {

namespace {

uint16_t little16(const uint8_t *p) {
    return static_cast<uint16_t>(p[0] | p[1] << 8);
}
uint16_t big16(const uint8_t *p) {
    return static_cast<uint16_t>(p[0] << 8 | p[1]);
}

// struct virtio_net_hdr (virtio 1.2, 5.1.6): gso_type at 1, hdr_len at 2, gso_size at 4.
constexpr uint8_t gso_ecn = 0x80;
constexpr uint8_t gso_tcpv4 = 1;
constexpr uint8_t gso_udp = 3;
constexpr uint8_t gso_tcpv6 = 4;
constexpr uint8_t gso_udp_l4 = 5;

/*
 * Bytes of headers that each segment repeats, 0 if they cannot be read. hdr_len of the virtio-net
 * header is only a hint (Linux puts the packet's linear length there, payload included), and sender
 * and receiver must count alike.
 */
size_t header_length(const FrameView &view, uint8_t gso_type) {
    constexpr uint8_t tcp = 6, udp = 17;
    const std::span<const uint8_t> b = view.bytes;
    const auto [ether_type, payload] = view.payload();
    size_t at = b.size() - payload.size();
    uint8_t protocol = 0;
    if (ether_type == 0x0800 && at + 20 <= b.size()) {
        protocol = b[at + 9];
        at += static_cast<size_t>(b[at] & 0xf) * 4;
    } else if (ether_type == 0x86dd && at + 40 <= b.size()) {
        protocol = b[at + 6]; // an extension header is neither TCP nor UDP: the hint is used
        at += 40;
    } else {
        return 0;
    }
    if ((gso_type == gso_tcpv4 || gso_type == gso_tcpv6) && protocol == tcp &&
        at + 13 <= b.size()) {
        return at + static_cast<size_t>(b[at + 12] >> 4) * 4;
    }
    if (gso_type == gso_udp_l4 && protocol == udp) {
        return at + 8;
    }
    if (gso_type == gso_udp) {
        return at; // IP fragments: the UDP header is payload
    }
    return 0;
}

} // namespace

std::optional<FrameView> FrameView::parse(const uint8_t *data, size_t head, size_t size,
                                          size_t vnet_size) {
    constexpr size_t ethernet_header = 14;
    if (!data || head > size || head < vnet_size || head - vnet_size < ethernet_header) {
        return std::nullopt;
    }
    return FrameView{{data, vnet_size}, {data + vnet_size, head - vnet_size}, size - vnet_size};
}

FrameView::Payload FrameView::payload() const {
    size_t at = 12;
    while (at + 2 <= bytes.size()) {
        const uint16_t ether_type = big16(&bytes[at]);
        if (ether_type != 0x8100 && ether_type != 0x88a8) {
            return {ether_type, bytes.subspan(at + 2)};
        }
        at += 4;
    }
    return {};
}

uint64_t FrameView::segments() const {
    if (vnet.size() < 10) {
        return 1;
    }
    const uint8_t gso_type = vnet[1] & static_cast<uint8_t>(~gso_ecn);
    const size_t gso_size = little16(&vnet[4]);
    if (gso_type == 0 || gso_size == 0) {
        return 1;
    }
    size_t header = header_length(*this, gso_type);
    if (header == 0) {
        header = little16(&vnet[2]);
    }
    if (header >= length) {
        return 1;
    }
    return (length - header + gso_size - 1) / gso_size;
}

} // namespace hotsnap::network
