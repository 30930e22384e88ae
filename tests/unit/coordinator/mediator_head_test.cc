// SPDX-License-Identifier: GPL-2.0-or-later
// Frames of which the mediator sees only the head: it asks for the rest when it keeps the frame,
// and judges as if it saw the whole frame.
#include <algorithm>
#include <cstring>

#include "mediator_case.h"

namespace hotsnap::network {
namespace {

constexpr size_t vnet = 12;

class MediatorHeadTest : public MediatorTest {
  protected:
    // Ethernet, IPv4, TCP, with segmentation left to the receiver: 10 segments of 1000 bytes.
    static std::vector<uint8_t> large(Mac from, Mac to) {
        std::vector<uint8_t> data = bytes(from, to, 0x45, vnet);
        data.resize(vnet + 14 + 20 + 20 + 10'000, 0x5a);
        data[1] = 1; // TCP over IPv4
        data[4] = 1000 % 256;
        data[5] = 1000 / 256;
        data[vnet + 14 + 9] = 6;
        data[vnet + 14 + 20 + 12] = 0x50;
        return data;
    }
    struct Rest {
        const std::vector<uint8_t> *data;
        size_t head;
        int asked = 0;
        static void copy(void *opaque, uint8_t *to) {
            auto *rest = static_cast<Rest *>(opaque);
            rest->asked++;
            std::memcpy(to, rest->data->data() + rest->head, rest->data->size() - rest->head);
        }
    };
    hs_verdict show(hs_direction direction, const std::vector<uint8_t> &data) {
        rest = {&data, std::min<size_t>(HS_FRAME_HEAD, data.size())};
        // Nothing lies behind the head: the sanitizer reports a read there.
        const std::vector<uint8_t> head(data.begin(),
                                        data.begin() + static_cast<std::ptrdiff_t>(rest.head));
        const hs_frame given{0, direction, head.data(), data.size(), vnet, 0};
        return mediator.frame(given, {rest.head, Rest::copy, &rest}, now, source);
    }
    std::vector<uint8_t> next() {
        hs_frame held;
        EXPECT_TRUE(mediator.next_released(held, now));
        return {held.data, held.data + held.size};
    }

    Rest rest{};
    Mac source;
};

TEST_F(MediatorHeadTest, WhatPassesIsNotCopied) {
    const std::vector<uint8_t> out = large(mac_b, mac_a), in = large(mac_a, mac_b);
    for (int step = 0; step < 4; step++) {
        EXPECT_EQ(show(HS_FROM_GUEST, out), HS_PASS);
        EXPECT_EQ(rest.asked, 0);
        EXPECT_EQ(show(HS_TO_GUEST, in), HS_PASS);
        EXPECT_EQ(rest.asked, 0);
        step == 0 ? prepare() : step == 1 ? mediator.start_coloring() : mediator.reset();
    }
}

TEST_F(MediatorHeadTest, SegmentsAreCountedOverTheWholeFrame) {
    arm();
    show(HS_FROM_GUEST, large(mac_b, mac_a));
    EXPECT_EQ(source, colored(table, mac_b, white_even));
    EXPECT_EQ(mediator.stats().white_sent, 10u);
    show(HS_TO_GUEST, large(colored(table, mac_a, white_even), mac_b));
    EXPECT_EQ(mediator.stats().white_received, 10u);
}

TEST_F(MediatorHeadTest, WhatIsHeldIsWhole) {
    arm();
    EXPECT_EQ(show(HS_TO_GUEST, large(colored(table, mac_a, red_even), mac_b)), HS_HOLD_AND_CUT);
    EXPECT_EQ(rest.asked, 1);
    mediator.cut();
    EXPECT_EQ(show(HS_FROM_GUEST, large(mac_b, everyone)), HS_HOLD);
    EXPECT_EQ(rest.asked, 1);
    EXPECT_EQ(next(), large(mac_a, mac_b));
    mediator.end_coloring();
    EXPECT_EQ(next(), large(mac_b, everyone));
}

TEST_F(MediatorHeadTest, WhatIsRecordedIsWhole) {
    cut();
    EXPECT_EQ(show(HS_TO_GUEST, large(colored(table, mac_a, white_even), mac_b)), HS_PASS);
    EXPECT_EQ(rest.asked, 1);
    ASSERT_EQ(mediator.record().frames().size(), 1u);
    EXPECT_EQ(mediator.record().frames()[0].data, large(mac_a, mac_b));
}

TEST_F(MediatorHeadTest, ShortHeadsPass) {
    arm();
    const std::vector<uint8_t> data = large(colored(table, mac_a, red_even), mac_b);
    for (size_t head = 0; head < vnet + 14; head++) {
        const hs_frame given{0, HS_TO_GUEST, data.data(), data.size(), vnet, 0};
        EXPECT_EQ(mediator.frame(given, {head, nullptr, nullptr}, now, source), HS_PASS) << head;
    }
}

} // namespace
} // namespace hotsnap::network
