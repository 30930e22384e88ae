// SPDX-License-Identifier: GPL-2.0-or-later
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "network/frame.h"

namespace hotsnap::network {
namespace {

struct Offload {
    uint8_t type;
    uint16_t hdr_len;
    uint16_t size;
};

std::vector<uint8_t> packet(Offload offload, std::vector<uint8_t> headers, size_t payload) {
    std::vector<uint8_t> data(12);
    data[1] = offload.type;
    data[2] = static_cast<uint8_t>(offload.hdr_len);
    data[3] = static_cast<uint8_t>(offload.hdr_len >> 8);
    data[4] = static_cast<uint8_t>(offload.size);
    data[5] = static_cast<uint8_t>(offload.size >> 8);
    data.insert(data.end(), headers.begin(), headers.end());
    data.resize(data.size() + payload);
    return data;
}

uint64_t segments(const std::vector<uint8_t> &data) {
    const auto view = FrameView::parse(data.data(), data.size(), 12);
    return view ? view->segments() : 0;
}

std::vector<uint8_t> ethernet(uint16_t type, int vlans = 0) {
    std::vector<uint8_t> out(12);
    for (int i = 0; i < vlans; i++) {
        out.insert(out.end(), {0x81, 0x00, 0x00, 0x05});
    }
    out.push_back(static_cast<uint8_t>(type >> 8));
    out.push_back(static_cast<uint8_t>(type));
    return out;
}

std::vector<uint8_t> ipv4(uint8_t protocol, size_t options = 0, int vlans = 0) {
    std::vector<uint8_t> out = ethernet(0x0800, vlans);
    const size_t at = out.size();
    out.resize(at + 20 + options);
    out[at] = static_cast<uint8_t>(0x40 | (5 + options / 4));
    out[at + 9] = protocol;
    return out;
}

std::vector<uint8_t> ipv6(uint8_t protocol) {
    std::vector<uint8_t> out = ethernet(0x86dd);
    out.resize(out.size() + 40);
    out[14] = 0x60;
    out[14 + 6] = protocol;
    return out;
}

std::vector<uint8_t> with_tcp(std::vector<uint8_t> out, size_t options = 0) {
    const size_t at = out.size();
    out.resize(at + 20 + options);
    out[at + 12] = static_cast<uint8_t>((5 + options / 4) << 4);
    return out;
}

std::vector<uint8_t> with_udp(std::vector<uint8_t> out) {
    out.resize(out.size() + 8);
    return out;
}

constexpr uint8_t tcp = 6, udp = 17;

TEST(FrameTest, ShortFramesAreNone) {
    const std::vector<uint8_t> data(30);
    EXPECT_FALSE(FrameView::parse(data.data(), 13, 0));
    EXPECT_TRUE(FrameView::parse(data.data(), 14, 0));
    EXPECT_FALSE(FrameView::parse(data.data(), 25, 12));
    EXPECT_TRUE(FrameView::parse(data.data(), 26, 12));
    EXPECT_FALSE(FrameView::parse(data.data(), 5, 12));
    EXPECT_FALSE(FrameView::parse(nullptr, 100, 0));
}

TEST(FrameTest, WithoutOffloadOneSegment) {
    EXPECT_EQ(segments(packet({0, 0, 0}, with_tcp(ipv4(tcp)), 9000)), 1u);
    EXPECT_EQ(segments(packet({1, 54, 0}, with_tcp(ipv4(tcp)), 9000)), 1u);
    const auto data = packet({1, 54, 100}, with_tcp(ipv4(tcp)), 1000);
    EXPECT_EQ(FrameView::parse(data.data() + 12, data.size() - 12, 0)->segments(), 1u);
}

TEST(FrameTest, CountsTcpSegmentsByTheHeadersNotTheHint) {
    // Linux's hdr_len is the linear part of the packet, which may hold payload.
    for (const uint16_t hint : {0, 54, 66, 200, 1000}) {
        EXPECT_EQ(segments(packet({1, hint, 1448}, with_tcp(ipv4(tcp), 12), 1448 * 3)), 3u);
        EXPECT_EQ(segments(packet({1, hint, 1448}, with_tcp(ipv4(tcp), 12), 1448 * 3 + 1)), 4u);
        EXPECT_EQ(segments(packet({4, hint, 100}, with_tcp(ipv6(tcp)), 250)), 3u);
        EXPECT_EQ(segments(packet({0x81, hint, 100}, with_tcp(ipv4(tcp, 8, 2)), 250)), 3u);
    }
}

TEST(FrameTest, CountsUdpSegments) {
    EXPECT_EQ(segments(packet({5, 0, 100}, with_udp(ipv4(udp)), 250)), 3u);
    EXPECT_EQ(segments(packet({5, 0, 100}, with_udp(ipv6(udp)), 200)), 2u);
    // UFO: fragments of the IP payload, UDP header included.
    EXPECT_EQ(segments(packet({3, 0, 104}, with_udp(ipv4(udp)), 200)), 2u);
}

TEST(FrameTest, FallsBackToTheHint) {
    EXPECT_EQ(segments(packet({4, 94, 100}, ipv6(0), 240)), 2u); // 54 + 240 - 94 = 200
    EXPECT_EQ(segments(packet({1, 20, 100}, ethernet(0x1234), 206)), 2u);
    EXPECT_EQ(segments(packet({1, 5000, 100}, ethernet(0x1234), 200)), 1u);
}

// The count does not depend on how a packet was segmented on the way.
TEST(FrameTest, SegmentsAddUp) {
    EXPECT_TRUE(rc::check([] {
        const auto size = *rc::gen::inRange<uint16_t>(1, 2000);
        const auto payload = *rc::gen::inRange<size_t>(1, 20000);
        const uint64_t whole = segments(packet({1, 0, size}, with_tcp(ipv4(tcp)), payload));
        uint64_t pieces = 0;
        for (size_t left = payload; left > 0;) {
            const size_t piece = std::min<size_t>(left, size);
            pieces += segments(packet({0, 0, 0}, with_tcp(ipv4(tcp)), piece));
            left -= piece;
        }
        RC_ASSERT(whole == pieces);
    }));
}

// With any bytes, nothing outside them is read (AddressSanitizer watches).
TEST(FrameTest, AnyBytes) {
    EXPECT_TRUE(rc::check([](std::vector<uint8_t> bytes) {
        for (const size_t vnet : {0, 10, 12}) {
            const std::vector<uint8_t> exact(bytes); // a heap block of exactly that size
            if (const auto view = FrameView::parse(exact.data(), exact.size(), vnet)) {
                RC_ASSERT(view->segments() >= 1);
            }
        }
    }));
    EXPECT_TRUE(rc::check([](std::vector<uint8_t> tail, uint8_t gso, uint8_t hint, bool v6) {
        std::vector<uint8_t> headers = v6 ? ipv6(tcp) : ipv4(tcp);
        headers.insert(headers.end(), tail.begin(), tail.end());
        headers.resize(*rc::gen::inRange<size_t>(14, headers.size() + 1));
        const auto exact = packet({gso, hint, 7}, headers, 0);
        RC_ASSERT(segments(exact) >= 1);
    }));
}

} // namespace
} // namespace hotsnap::network
