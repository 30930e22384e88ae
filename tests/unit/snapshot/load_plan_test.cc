// SPDX-License-Identifier: GPL-2.0-or-later
#include "restore/load_plan.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace hotsnap::memory {

namespace {

// Runs of stored and of zero pages, in turns.
ImageBlock block_with(const std::vector<uint64_t> &runs) {
    ImageBlock block;
    std::vector<bool> bits;
    for (size_t i = 0; i < runs.size(); i++) {
        bits.insert(bits.end(), runs[i], i % 2 == 1);
    }
    bits.push_back(false);
    block.length = bits.size() * page_bytes;
    block.bitmap.resize(bits.size() / 64 + 1);
    for (size_t i = 0; i < bits.size(); i++) {
        block.bitmap[i / 64] |= uint64_t{bits[i]} << (i % 64);
    }
    return block;
}

ImageBlock any_block() {
    return block_with(*rc::gen::container<std::vector<uint64_t>>(rc::gen::inRange(1, 200)));
}

TEST(LoadPlan, LeavesOutLongRunsOfZeros) {
    const ImageBlock block = block_with({10, 3, 4, 3, 100, 1});
    EXPECT_EQ(trapped_spans(block, 50, 10), (std::vector<PageSpan>{{10, 10}, {120, 1}}));
    EXPECT_EQ(trapped_spans(block, 50, 1), (std::vector<PageSpan>{{10, 111}}));
    EXPECT_TRUE(trapped_spans(block_with({77}), 50, 10).empty());
}

RC_GTEST_PROP(LoadPlan, SpansHoldAllStoredPagesAndNoLongGap, ()) {
    const ImageBlock block = any_block();
    const auto gap = *rc::gen::inRange<uint64_t>(1, 100);
    const auto most = *rc::gen::inRange<size_t>(1, 20);
    const std::vector<PageSpan> spans = trapped_spans(block, gap, most);
    RC_ASSERT(spans.size() <= most);
    std::vector<bool> in(block.pages());
    uint64_t end = 0;
    for (const PageSpan &span : spans) {
        RC_ASSERT((span.count > 0 && (end == 0 || span.first >= end + gap)));
        RC_ASSERT((block.stored(span.first) && block.stored(span.first + span.count - 1)));
        end = span.first + span.count;
        RC_ASSERT(end <= block.pages());
        std::fill_n(in.begin() + static_cast<std::ptrdiff_t>(span.first), span.count, true);
    }
    for (uint64_t page = 0; page < block.pages(); page++) {
        RC_ASSERT((in[page] || !block.stored(page)));
    }
    if (trapped_spans(block, gap, ~size_t{0}).size() <= most) {
        for (const PageSpan &span : spans) {
            each_run(block, span, ~uint64_t{0} >> 1, [&](const PageSpan &run, bool stored) {
                RC_ASSERT((stored || run.count < gap));
                return true;
            });
        }
    }
}

RC_GTEST_PROP(LoadPlan, RunsCoverASpanOnceAndAreOfOneKind, ()) {
    const ImageBlock block = any_block();
    const auto first = *rc::gen::inRange<uint64_t>(0, block.pages());
    const auto count = *rc::gen::inRange<uint64_t>(0, block.pages() - first + 1);
    const auto most = *rc::gen::inRange<uint64_t>(1, 70);
    uint64_t at = first;
    each_run(block, {first, count}, most, [&](const PageSpan &run, bool stored) {
        RC_ASSERT((run.first == at && run.count > 0 && run.count <= most));
        for (uint64_t i = 0; i < run.count; i++) {
            RC_ASSERT(block.stored(run.first + i) == stored);
        }
        at += run.count;
        return true;
    });
    RC_ASSERT(at == first + count);
}

RC_GTEST_PROP(LoadPlan, TheRunAroundAPageIsTheLongest, ()) {
    const ImageBlock block = any_block();
    const auto page = *rc::gen::inRange<uint64_t>(0, block.pages());
    const auto first = *rc::gen::inRange<uint64_t>(0, page + 1);
    const auto end = *rc::gen::inRange<uint64_t>(page + 1, block.pages() + 1);
    const PageSpan run = run_around(block, page, {first, end - first});
    RC_ASSERT((run.first >= first && run.first <= page && run.first + run.count <= end));
    for (uint64_t i = run.first; i < run.first + run.count; i++) {
        RC_ASSERT(block.stored(i) == block.stored(page));
    }
    RC_ASSERT((run.first == first || block.stored(run.first - 1) != block.stored(page)));
    RC_ASSERT((run.first + run.count == end ||
               block.stored(run.first + run.count) != block.stored(page)));
}

TEST(LoadPlan, SpansInUnits) {
    using Spans = std::vector<PageSpan>;
    EXPECT_EQ(in_units({{5, 3}, {9, 1}, {40, 2}, {63, 1}}, 8, 66),
              (Spans{{0, 16}, {40, 8}, {56, 8}}));
    EXPECT_EQ(in_units({{64, 1}}, 8, 66), (Spans{{64, 2}}));
    EXPECT_EQ(in_units({{5, 3}, {9, 1}}, 1, 66), (Spans{{5, 3}, {9, 1}}));
    EXPECT_TRUE(in_units({}, 8, 66).empty());
}

} // namespace

} // namespace hotsnap::memory
