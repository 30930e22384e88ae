// SPDX-License-Identifier: GPL-2.0-or-later
// A mediator under test: member "b" with two NICs, among "a" and "c".
#ifndef HOTSNAP_MEDIATOR_CASE_H
#define HOTSNAP_MEDIATOR_CASE_H

#include <vector>

#include <gtest/gtest.h>

#include "network/mediator.h"

namespace hotsnap::network {

inline const Mac mac_a = *Mac::parse("52:54:00:00:00:0a"), mac_b = *Mac::parse("52:54:00:00:00:0b");
inline const Mac mac_b2 = *Mac::parse("52:54:00:00:00:bb"),
                 mac_c = *Mac::parse("52:54:00:00:00:0c");
inline const Mac outsider = *Mac::parse("02:00:00:00:00:01"), everyone(0xffff'ffff'ffff);

inline constexpr uint8_t white_even = 0x04, white_odd = 0x14, red_even = 0x08, red_odd = 0x18;

inline std::vector<uint8_t> bytes(Mac from, Mac to, uint8_t payload, size_t vnet = 0) {
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
    uint8_t mask; // the change of the source octet
};

// Epoch 2 unless a test gives another.
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
        EXPECT_FALSE(mediator.armed());
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
    // Payloads of the frames released now; the sources must be natural again.
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

} // namespace hotsnap::network
#endif
