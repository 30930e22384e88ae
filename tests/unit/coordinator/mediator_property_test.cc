// SPDX-License-Identifier: GPL-2.0-or-later
// The packet mediator under any order of calls and frames.
#include <cstring>
#include <map>

#include <rapidcheck.h>

#include "mediator_case.h"

namespace hotsnap::network {
namespace {

// In any order of calls and frames, held frames come out once, in order, and none is left after a
// reset.
TEST(MediatorPropertyTest, WhatIsHeldComesOutOnceInOrder) {
    EXPECT_TRUE(rc::check([] {
        Mediator mediator;
        mediator.add_nic("net0", mac_b, 12);
        const std::vector<Member> members = {{"a", {{"net0", mac_a, {}}}},
                                             {"b", {{"net0", mac_b, {}}}},
                                             {"c", {{"net0", mac_c, {}}}}};
        const MemberTable table = table_of(members);
        std::map<int, std::vector<size_t>> in, out; // by stream
        size_t number = 0, epoch = 1;
        // To the guest all frames keep their order, from it those to one destination.
        const auto stream_of = [](const hs_frame &f) {
            return f.direction == HS_TO_GUEST ? -1 : f.data[5];
        };
        const auto take = [&](const hs_frame &f) {
            size_t value = 0;
            std::memcpy(&value, f.data + f.size - sizeof(value), sizeof(value));
            out[stream_of(f)].push_back(value);
        };
        const auto drain = [&] {
            for (hs_frame held; mediator.next_released(held, 0);) {
                take(held);
            }
        };
        const auto steps = *rc::gen::inRange(1, 200);
        for (int i = 0; i < steps; i++) {
            std::string error;
            switch (*rc::gen::inRange(0, 16)) {
            case 0:
                mediator.prepare(epoch++, "b", members, *rc::gen::inRange(0, 8) != 0, error);
                break;
            case 1:
                mediator.start_coloring();
                break;
            case 2:
                mediator.cut();
                break;
            case 3:
                mediator.expect({{{mac_a, mac_b}, *rc::gen::inRange(0u, 5u)}}, {}, error);
                break;
            case 4:
                mediator.close_channels();
                break;
            case 5:
                mediator.end_coloring();
                break;
            case 6:
                mediator.reset();
                break;
            case 7:
                drain();
                break;
            default: {
                const bool outward = *rc::gen::arbitrary<bool>();
                const Mac other = *rc::gen::element(mac_a, mac_c, outsider);
                const bool group = *rc::gen::inRange(0, 4) == 0;
                const Tone tone =
                    *rc::gen::element(natural, white_even, white_odd, red_even, red_odd);
                std::vector<uint8_t> data =
                    outward ? bytes(mac_b, group ? everyone : other, 0)
                            : bytes(other == outsider ? other : colored(table, other, tone),
                                    group ? everyone : mac_b, 0);
                data.resize(data.size() + sizeof(number));
                std::memcpy(data.data() + data.size() - sizeof(number), &number, sizeof(number));
                const hs_frame given{
                    0, outward ? HS_FROM_GUEST : HS_TO_GUEST, data.data(), data.size(), 0, 0};
                in[stream_of(given)].push_back(number++);
                Mac source;
                if (mediator.frame(given, 0, source) == HS_PASS) {
                    take(given);
                }
            }
            }
        }
        mediator.reset();
        drain();
        RC_ASSERT(in == out);
    }));
}

} // namespace
} // namespace hotsnap::network
