// SPDX-License-Identifier: GPL-2.0-or-later
//
// The plan of the background copy, against models of guests and storage: the copy ends at the
// deadline whenever it can. The control, a plain byte rate, must miss.
#include "save/pacer.h"

#include "copy_model.h"
#include "guest/guest_memory.h"
#include "save/token_bucket.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>

namespace hotsnap::memory {

namespace {

using test::Content;
using test::CopyModel;

constexpr uint64_t ms = 1'000'000;
constexpr uint64_t second = 1000 * ms;
constexpr uint64_t start = 1000 * second;
constexpr uint64_t groups_per_mib = 16;

std::vector<Content> layout(std::initializer_list<std::pair<Content, uint64_t>> parts) {
    std::vector<Content> groups;
    for (const auto &[content, mib] : parts) {
        groups.insert(groups.end(), mib * groups_per_mib, content);
    }
    return groups;
}

double as_double(uint64_t n) {
    return static_cast<double>(n);
}

// A model whose copier asks a pacer.
struct Paced {
    Paced() {
        model.next = [this](const PagesLeft &left, uint64_t now) {
            if (move_at != 0 && now >= move_at) {
                pacer.set_deadline(moved_to, now);
                move_at = 0;
            }
            const double per_page = bandwidth == 0 ? 0 : page_bytes * 1e9 / as_double(bandwidth);
            const RateLimit limit{per_page, bucket.wait_ns(now)};
            Pacer::Step step = pacer.next(left, limit, now);
            const uint64_t deadline = pacer.deadline();
            if (step.wait_ns > 0) {
                early_only &= deadline != 0 && now + step.wait_ns <= deadline;
            }
            if (now >= look_at && expected_then == 0) {
                expected_then = pacer.expected_end(now);
            }
            step.wait_ns = std::max(step.wait_ns, limit.owed_ns);
            return step;
        };
        model.done = [this](const ChunkDone &chunk, uint64_t now) {
            bucket.spend(chunk.data * page_bytes, now);
            pacer.done(chunk, now);
        };
    }

    CopyModel::Result run(uint64_t deadline) {
        bucket = TokenBucket(bandwidth, start);
        pacer.set_deadline(deadline, start);
        return model.run(start);
    }

    CopyModel model;
    Pacer pacer{64};
    uint64_t bandwidth = 0;
    TokenBucket bucket{0, start};
    uint64_t move_at = 0; // when the deadline is moved; 0: never
    uint64_t moved_to = 0;
    uint64_t look_at = start; // when expected_then is taken
    uint64_t expected_then = 0;
    bool early_only = true; // no wait went beyond the deadline, and none was made without one
};

// The bounds of every copy that can be on time. Waiting for the deadline after the last page is the
// caller's, so pages that write faults have saved too early are none of the plan's.
void expect_on_time(const CopyModel::Result &result, uint64_t deadline, uint64_t late_ns) {
    EXPECT_LE(result.last_saved, deadline + late_ns + ms);
    if (result.last_by_copier) {
        EXPECT_GE(result.last_saved + 5 * ms, deadline);
    }
}

TEST(Pacer, WithoutADeadlineItNeverWaits) {
    Paced paced;
    paced.model.groups = layout({{Content::data, 64}, {Content::absent, 64}, {Content::zero, 64}});
    const auto result = paced.run(0);
    EXPECT_TRUE(paced.early_only);
    EXPECT_LE(as_double(result.last_saved - start), paced.model.least_ns() * 1.05);
    EXPECT_EQ(result.chunks.size(), 3 * 32u);
}

TEST(Pacer, LayoutsEndAtTheDeadline) {
    const auto layouts = {
        layout({{Content::data, 256}}),
        layout({{Content::zero, 256}}),
        layout({{Content::zero, 128}, {Content::data, 128}}),
        layout({{Content::data, 128}, {Content::zero, 128}}),
        layout({{Content::absent, 256}, {Content::data, 64}, {Content::absent, 256}}),
        layout({{Content::data, 1}, {Content::absent, 4096}, {Content::zero, 1}}),
    };
    for (const auto &groups : layouts) {
        for (const uint64_t duration : {400 * ms, second, 10 * second}) {
            Paced paced;
            paced.model.groups = groups;
            expect_on_time(paced.run(start + duration), start + duration, 0);
        }
    }
}

// The least rate: no part of the time sees much more than its share of the data, wherever the zero
// pages lie.
TEST(Pacer, DataIsSpreadEvenly) {
    std::vector<Content> mixed;
    for (uint64_t i = 0; i < 256 * groups_per_mib; i++) {
        mixed.push_back(i % 3 == 0 ? Content::zero : i % 3 == 1 ? Content::absent : Content::data);
    }
    for (const auto &groups :
         {layout({{Content::data, 256}}), layout({{Content::zero, 128}, {Content::data, 128}}),
          layout({{Content::data, 128}, {Content::zero, 128}}), mixed}) {
        Paced paced;
        paced.model.groups = groups;
        const auto result = paced.run(start + second);
        std::array<uint64_t, 10> parts{};
        uint64_t sum = 0;
        for (const CopyModel::Chunk &chunk : result.chunks) {
            parts[std::min<uint64_t>((chunk.begin - start) / (second / 10), 9)] += chunk.data;
            sum += chunk.data;
        }
        EXPECT_LE(as_double(*std::ranges::max_element(parts)), as_double(sum) / 10 * 1.3);
    }
}

TEST(Pacer, LastStepsAreSmall) {
    Paced paced;
    paced.model.groups = layout({{Content::data, 256}});
    const auto result = paced.run(start + second);
    EXPECT_EQ(result.chunks.front().data, 512u);
    EXPECT_EQ(result.chunks.back().data, 64u);
    EXPECT_GE(result.chunks.back().begin, start + second - 2 * ms);
    // The lead.
    EXPECT_LE(result.chunks.end()[-2].begin, start + second - 10 * ms);
}

TEST(Pacer, ALateCopyNeverWaitsAndSaysWhenItWillEnd) {
    EXPECT_TRUE(rc::check([] {
        Paced paced;
        paced.model.groups = layout({{Content::zero, *rc::gen::inRange<uint64_t>(0, 64)},
                                     {Content::data, *rc::gen::inRange<uint64_t>(256, 500)}});
        paced.model.storage_ns = *rc::gen::inRange(1000, 20000);
        const double least = paced.model.least_ns();
        const auto percent = *rc::gen::inRange<uint64_t>(1, 70);
        const uint64_t deadline = start + static_cast<uint64_t>(least) * percent / 100;
        paced.look_at = start + static_cast<uint64_t>(least / 2);
        const auto result = paced.run(deadline);
        RC_ASSERT(paced.early_only);
        const double took = as_double(result.last_saved - start);
        RC_ASSERT(took <= least * 1.05 + 10e6);
        RC_ASSERT(std::abs(as_double(paced.expected_then - start) - took) <= least * 0.25);
    }));
}

TEST(Pacer, TheBandwidthCountsInThePlan) {
    Paced paced;
    paced.model.groups = layout({{Content::data, 100}});
    paced.bandwidth = 100 << 20;
    paced.look_at = start + 50 * ms;
    const auto late = paced.run(start + second / 2);
    EXPECT_NEAR(as_double(late.last_saved - start), 1e9, 0.05e9);
    EXPECT_NEAR(as_double(paced.expected_then - start), 1e9, 0.05e9);

    Paced ample;
    ample.model.groups = paced.model.groups;
    ample.bandwidth = paced.bandwidth;
    expect_on_time(ample.run(start + 1500 * ms), start + 1500 * ms, 0);
}

TEST(Pacer, AGuestThatSavesNearlyEverythingItself) {
    Paced paced;
    paced.model.groups = layout({{Content::data, 64}, {Content::absent, 64}});
    paced.model.saved_at_once = 60000;
    expect_on_time(paced.run(start + second), start + second, 0);
    Paced fast;
    fast.model.groups = paced.model.groups;
    fast.model.faults_per_s = 10000;
    expect_on_time(fast.run(start + second), start + second, 0);
}

TEST(Pacer, OddInstantsAreHarmless) {
    for (const uint64_t deadline : {uint64_t{1}, start, ~uint64_t{0}}) {
        Pacer pacer(64);
        pacer.set_deadline(deadline, start);
        for (const PagesLeft left :
             {PagesLeft{}, PagesLeft{1e9, 0, 0.5}, PagesLeft{1e9, 1e9, 1e9}}) {
            const Pacer::Step step = pacer.next(left, {}, start);
            EXPECT_GE(step.pages, 1u);
            EXPECT_GE(pacer.expected_end(start), start);
            pacer.done({}, start);
            pacer.done({3, 5, 7, 0}, start);
        }
    }
}

std::vector<Content> any_layout() {
    std::vector<Content> groups;
    const auto parts = *rc::gen::inRange(1, 12);
    for (int i = 0; i < parts; i++) {
        const auto content =
            *rc::gen::element<Content>(Content::absent, Content::zero, Content::data);
        groups.insert(groups.end(), *rc::gen::inRange<uint64_t>(1, 600), content);
    }
    if (*rc::gen::inRange(0, 4) == 0) {
        std::mt19937_64 random(*rc::gen::arbitrary<uint32_t>());
        std::ranges::shuffle(groups, random);
    }
    return groups;
}

// Whatever the guest, the storage, their stalls and the scheduler do, as long as there is time.
TEST(Pacer, EndsAtTheDeadlineWheneverItCan) {
    EXPECT_TRUE(rc::check([] {
        Paced paced;
        CopyModel &model = paced.model;
        model.groups = any_layout();
        model.seed = *rc::gen::arbitrary<uint32_t>();
        model.faults_per_s = *rc::gen::element(0, 100, 3000, 30000);
        model.page_ns = *rc::gen::inRange(200, 3000);
        model.zero_ns = *rc::gen::inRange(100, 600);
        model.storage_ns = *rc::gen::inRange(500, 20000);
        model.late_ns = *rc::gen::element(uint64_t{0}, ms / 10, 2 * ms);
        const auto factor = *rc::gen::inRange<uint64_t>(13, 80);
        const auto stall = *rc::gen::element(uint64_t{0}, uint64_t{0}, 30 * ms, 300 * ms);
        if (*rc::gen::arbitrary<bool>()) {
            model.slower_from = start + *rc::gen::inRange<uint64_t>(1, second);
        }
        uint64_t deadline =
            start + 2 * stall + 20 * ms + static_cast<uint64_t>(model.least_ns()) / 10 * factor;
        if (stall != 0) {
            model.stall_begin = start + *rc::gen::inRange<uint64_t>(0, (deadline - start) / 4);
            model.stall_end = model.stall_begin + stall;
        }
        if (*rc::gen::arbitrary<bool>()) {
            // First the deadline was a later or a much too early one, or there was none.
            paced.moved_to = deadline;
            paced.move_at = start + *rc::gen::inRange<uint64_t>(0, (deadline - start) / 20);
            deadline = start + *rc::gen::element(uint64_t{ms}, 100 * second);
        }
        const uint64_t last = paced.moved_to != 0 ? paced.moved_to : deadline;
        const auto result = paced.run(deadline);
        RC_ASSERT(paced.early_only);
        RC_ASSERT(result.last_saved <= last + model.late_ns + ms);
        // Nothing to hold back where nothing is present.
        const bool present = std::ranges::count(model.groups, Content::absent) <
                             static_cast<ptrdiff_t>(model.groups.size());
        if (present && stall == 0 && model.faults_per_s == 0 && paced.moved_to == 0) {
            RC_ASSERT(result.last_saved + 5 * ms >= last);
        }
    }));
}

// A rate of all bytes by the time there is: half of this guest costs nothing, and the copy ends in
// the middle.
TEST(PacerControl, AByteRateMisses) {
    CopyModel model;
    model.groups = layout({{Content::zero, 128}, {Content::data, 128}});
    const uint64_t deadline = start + second;
    TokenBucket bucket(256 << 20, start);
    model.next = [&](const PagesLeft &, uint64_t now) {
        return Pacer::Step{bucket.wait_ns(now), 512};
    };
    model.done = [&](const ChunkDone &chunk, uint64_t now) {
        bucket.spend(chunk.data * page_bytes, now);
    };
    const auto result = model.run(start);
    EXPECT_GT(std::abs(as_double(deadline) - as_double(result.last_saved)), 100e6);

    Paced paced;
    paced.model.groups = model.groups;
    expect_on_time(paced.run(deadline), deadline, 0);
}

} // namespace

} // namespace hotsnap::memory
