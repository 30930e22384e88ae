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

// The color of a frame in a test: natural, or an alias of the table that is asked.
enum Tone : uint8_t { natural, white_even, white_odd, red_even, red_odd };

inline Tint tint_of(Tone tone) {
    return {tone == red_even || tone == red_odd ? Color::red : Color::white,
            tone == white_odd || tone == red_odd};
}

inline MemberTable table_of(const std::vector<Member> &members) {
    std::string error;
    return *MemberTable::build(members, error);
}

// The source of a frame in that tone, sent by the first NIC that sends for `mac`.
inline Mac colored(const MemberTable &table, Mac mac, Tone tone) {
    return tone == natural ? mac : table.alias(table.senders(mac).at(0), tint_of(tone));
}

inline Tone tone_of(const MemberTable &table, Mac mac) {
    for (const Tone tone : {white_even, white_odd, red_even, red_odd}) {
        if (const auto seen = table.read(mac); seen && seen->tint == tint_of(tone)) {
            return tone;
        }
    }
    return natural;
}

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
    Tone tone; // that was given to a frame from the guest, or taken from one to it
};

constexpr int64_t second_ns = 1'000'000'000;

// Epoch 2 unless a test gives another. The outsider has been heard for a while.
class MediatorTest : public testing::Test {
  protected:
    MediatorTest() {
        mediator.add_nic("net0", mac_b, 12);
        mediator.add_nic("net1", mac_b2, 12);
        for (const int64_t second : {50, 90, 100}) {
            now = second * second_ns;
            receive(outsider, natural, 0, mac_b, 0);
            receive(outsider, natural, 0, mac_b2, 1);
        }
        mediator.list_nics();
    }

    static std::vector<Member> members() {
        return {{"a", {{"net0", mac_a, {}}}},
                {"b", {{"net0", mac_b, {}}, {"net1", mac_b2, {}}}},
                {"c", {{"net0", mac_c, {}}}}};
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
        Mac source;
        const hs_frame given{nic, direction, data.data(), data.size(), 12, 0};
        const hs_verdict verdict = mediator.frame(given, now, source);
        const Tone before = tone_of(table, from), after = tone_of(table, source);
        return {verdict, source == from ? natural : direction == HS_FROM_GUEST ? after : before};
    }
    Seen send(Mac to, uint8_t payload = 0) { return frame(HS_FROM_GUEST, mac_b, to, payload); }
    Seen receive(Mac from, Tone tone = natural, uint8_t payload = 0, Mac to = mac_b,
                 uint32_t nic = 0) {
        return frame(HS_TO_GUEST, colored(table, from, tone), to, payload, nic);
    }
    // Payloads of the frames released now; the sources must be natural again.
    std::vector<int> released(hs_direction direction) {
        std::vector<int> payloads;
        for (hs_frame held; mediator.next_released(held, now);) {
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
        ASSERT_TRUE(mediator.expect(counts, {}, error)) << error;
    }

    const MemberTable table = table_of(members()); // that of the epochs in the tests
    int64_t now = 0;
    Mediator mediator;
};

using Payloads = std::vector<int>;

} // namespace hotsnap::network
#endif
