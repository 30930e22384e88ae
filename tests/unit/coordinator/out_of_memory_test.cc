// SPDX-License-Identifier: GPL-2.0-or-later
// The C interface lets no exception out: each allocation of a function fails in turn. C code cannot
// catch an exception; in QEMU it would end the virtual machine. Functions with JSON are left out:
// the destruction of a JSON value takes memory, and without memory it ends the program.
#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>

#include <gtest/gtest.h>

#include "hotsnap/coordinator.h"
#include "hotsnap/mediator.h"
#include "network/channel_json.h"
#include "network/member_table.h"

namespace {

// The number of allocations that still succeed; negative: all do.
long allocations_left = -1;
bool one_failed = false;

} // namespace

void *operator new(size_t size) {
    if (allocations_left == 0) {
        one_failed = true;
        throw std::bad_alloc();
    }
    allocations_left -= allocations_left > 0;
    if (void *p = std::malloc(size ? size : 1)) {
        return p;
    }
    throw std::bad_alloc();
}
// A sanitizer brings its own, whose memory the operator below may not free.
void *operator new(size_t size, const std::nothrow_t &) noexcept {
    try {
        return operator new(size);
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}
void operator delete(void *p) noexcept {
    std::free(p);
}
void operator delete(void *p, size_t) noexcept {
    std::free(p);
}

namespace {

// For each allocation that `function` makes: makes the state anew by `prepare`, and calls
// `function` on it.
template <typename State>
void sweep(const char *name, const std::function<State()> &prepare,
           const std::function<void(State &)> &function) {
    for (long most = 0; most < 10'000; most++) {
        State state = prepare();
        one_failed = false;
        allocations_left = most;
        bool thrown = false;
        try {
            function(state);
        } catch (...) {
            thrown = true;
        }
        allocations_left = -1;
        ASSERT_FALSE(thrown) << name << " lets an exception out when allocation " << most
                             << " fails";
        if (!one_failed) {
            return; // it made no more allocations
        }
    }
    FAIL() << name << " has no end";
}

struct FreeMediator {
    void operator()(hs_mediator *m) const { hs_mediator_free(m); }
};
struct FreeCoordinator {
    void operator()(hs_coordinator *c) const { hs_coordinator_free(c); }
};
using MediatorPtr = std::unique_ptr<hs_mediator, FreeMediator>;
using CoordinatorPtr = std::unique_ptr<hs_coordinator, FreeCoordinator>;

constexpr uint8_t own_mac[6] = {0x52, 0x54, 0, 0, 0, 0x0b};
constexpr const char *members =
    R"([{"name":"a","nics":[)"
    R"({"nic":"net0","mac":"52:54:00:00:00:0a","sources":[],"complete":true}]},)"
    R"({"name":"b","nics":[)"
    R"({"nic":"net0","mac":"52:54:00:00:00:0b","sources":[],"complete":true}]}])";

using hotsnap::network::Color;
using hotsnap::network::Mac;

const Mac natural(0x52540000000a);

// The alias of a in epoch 2.
Mac alias_of_a(Color color) {
    std::string error;
    const auto table = hotsnap::network::MemberTable::build(
        hotsnap::network::members_from_json(hotsnap::parse_json(members)), error);
    return table->alias(table->senders(natural).at(0), {color, false});
}
const Mac white = alias_of_a(Color::white), red = alias_of_a(Color::red);

// From a to b; `source` has the color.
struct Bytes {
    explicit Bytes(Mac source, bool to_all = false) {
        const uint8_t head[14] = {0x52, 0x54, 0, 0, 0, 0x0b, 0, 0, 0, 0, 0, 0, 8, 0};
        std::copy(head, head + 14, data);
        source.to_bytes(data + 6);
        if (to_all) {
            std::fill(data, data + 6, 0xff);
            data[11] = 0x0b;
        }
    }
    hs_frame frame(hs_direction direction) const {
        return {0, direction, data, sizeof(data), 0, 0};
    }
    uint8_t data[100] = {};
};

hs_verdict give(hs_mediator *m, hs_direction direction, const Bytes &bytes) {
    const hs_frame frame = bytes.frame(direction);
    uint8_t source[6];
    return hs_mediator_frame(m, &frame, 1, source);
}

enum class Until { made, prepared, armed, held, cut, ended };

MediatorPtr mediator(Until until) {
    MediatorPtr m(hs_mediator_new());
    hs_mediator_add_nic(m.get(), "net0", own_mac, 0, 1);
    if (until >= Until::prepared) {
        EXPECT_TRUE(hs_mediator_prepare(m.get(), 2, "b", members, true, nullptr));
    }
    if (until >= Until::armed) {
        hs_mediator_start_coloring(m.get());
        hs_mediator_armed(m.get());
    }
    if (until >= Until::held) {
        EXPECT_EQ(give(m.get(), HS_TO_GUEST, Bytes(red)), HS_HOLD_AND_CUT);
        EXPECT_EQ(give(m.get(), HS_TO_GUEST, Bytes(white)), HS_HOLD);
    }
    if (until >= Until::cut) {
        hs_mediator_cut(m.get());
    }
    if (until >= Until::ended) {
        hs_mediator_end_coloring(m.get());
    }
    return m;
}

void sweep_mediator(const char *name, Until until, const std::function<void(hs_mediator *)> &call) {
    sweep<MediatorPtr>(
        name, [until] { return mediator(until); }, [&](MediatorPtr &m) { call(m.get()); });
}

TEST(OutOfMemory, Mediator) {
    sweep<int>(
        "new", [] { return 0; }, [](int &) { hs_mediator_free(hs_mediator_new()); });
    sweep_mediator("add_nic", Until::made, [](hs_mediator *m) {
        hs_mediator_add_nic(m, "a network backend with a long name", own_mac, 0, 1);
    });
    sweep_mediator("remove_nic", Until::held, [](hs_mediator *m) { hs_mediator_remove_nic(m, 0); });
    sweep_mediator("probe", Until::prepared, hs_mediator_probe);
    sweep_mediator("start_coloring", Until::prepared, hs_mediator_start_coloring);
    sweep_mediator("cut", Until::held, hs_mediator_cut);
    sweep_mediator("begin_contacts", Until::cut, [](hs_mediator *m) {
        hs_mediator_begin_contacts(m, 1);
        Bytes sent(natural);
        std::swap_ranges(sent.data, sent.data + 6, sent.data + 6);
        EXPECT_EQ(give(m, HS_FROM_GUEST, sent), HS_PASS);
    });
    sweep_mediator("close_channels", Until::cut, hs_mediator_close_channels);
    sweep_mediator("end_coloring", Until::cut, hs_mediator_end_coloring);
    sweep_mediator("reset", Until::cut, hs_mediator_reset);
    sweep_mediator("next_released", Until::cut, [](hs_mediator *m) {
        hs_frame frame;
        while (hs_mediator_next_released(m, &frame, 1)) {
        }
    });
}

// A frame that cannot be kept is counted, and has no other effect.
TEST(OutOfMemory, Frames) {
    sweep_mediator("a frame that is held", Until::armed, [](hs_mediator *m) {
        const hs_verdict verdict = give(m, HS_TO_GUEST, Bytes(red));
        allocations_left = -1;
        EXPECT_EQ(verdict, HS_HOLD_AND_CUT);
        hs_mediator_stats stats{};
        stats.struct_size = sizeof(stats);
        hs_mediator_get_stats(m, &stats);
        EXPECT_EQ(stats.held + stats.dropped, 1u);
    });
    sweep_mediator("a frame that is recorded", Until::cut, [](hs_mediator *m) {
        const long left = allocations_left;
        allocations_left = -1;
        hs_frame frame;
        while (hs_mediator_next_released(m, &frame, 1)) {
        }
        hs_mediator_stats before{}, stats{};
        before.struct_size = stats.struct_size = sizeof(stats);
        hs_mediator_get_stats(m, &before);
        allocations_left = left;
        EXPECT_EQ(give(m, HS_TO_GUEST, Bytes(white)), HS_PASS);
        allocations_left = -1;
        hs_mediator_get_stats(m, &stats);
        EXPECT_EQ(stats.recorded + stats.unrecorded, before.recorded + before.unrecorded + 1);
    });
    sweep_mediator("a broadcast", Until::cut,
                   [](hs_mediator *m) { give(m, HS_FROM_GUEST, Bytes(natural, true)); });
    sweep_mediator("a claim of an IP address", Until::made, [](hs_mediator *m) {
        Bytes arp(Mac::from_bytes(own_mac), true);
        const uint8_t head[] = {8, 6, 0, 1, 8, 0, 6, 4, 0, 1};
        std::copy(std::begin(head), std::end(head), arp.data + 12);
        arp.data[14 + 14] = 10; // the sender's address, 10.0.0.0
        EXPECT_EQ(give(m, HS_FROM_GUEST, arp), HS_PASS);
    });
}

TEST(OutOfMemory, Coordinator) {
    const auto made = [] { return CoordinatorPtr(hs_coordinator_new("b", nullptr)); };
    sweep<int>(
        "new", [] { return 0; },
        [](int &) {
            char *error = nullptr;
            hs_coordinator_free(hs_coordinator_new("a member with a name that is long", &error));
            std::free(error);
        });
    sweep<CoordinatorPtr>("wants", made, [](CoordinatorPtr &c) {
        hs_coordinator_wants(c.get(), "unix:/an/address/that/is/long/enough");
    });
}

} // namespace
