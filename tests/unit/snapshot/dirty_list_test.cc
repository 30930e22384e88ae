// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/dirty_list.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <set>

namespace hotsnap::memory {

namespace {

TEST(DirtyList, CoalescedRunsCoverTheSamePagesAndLittleMore) {
    std::vector<MemoryBlock> blocks(2);
    blocks[0].length = blocks[1].length = 1000 * page_bytes;
    blocks[1].first_page = 1000;
    EXPECT_TRUE(rc::check([&] {
        const auto gap = *rc::gen::inRange<uint64_t>(0, 40);
        const uint64_t most = 200;
        std::vector<PageRun> runs;
        std::set<uint64_t> dirty;
        const auto n = *rc::gen::inRange(0, 60);
        for (int i = 0; i < n; i++) {
            const MemoryBlock &block = blocks[*rc::gen::inRange<size_t>(0, 2)];
            const PageRun run{&block, *rc::gen::inRange<uint64_t>(0, 60) * 16, 16};
            runs.push_back(run);
            for (uint64_t page = 0; page < run.count; page++) {
                dirty.insert(run.number() + page);
            }
        }
        uint64_t pages = 0;
        const std::vector<PageRun> joined = coalesce(runs, gap, most, pages);
        RC_ASSERT(pages == dirty.size());
        uint64_t end = 0;
        std::set<uint64_t> covered;
        for (const PageRun &run : joined) {
            RC_ASSERT(run.number() >= end); // in order, disjoint
            end = run.number() + run.count;
            RC_ASSERT(run.first + run.count <= run.block->pages());
            RC_ASSERT(run.count <= most);
            uint64_t since_dirty = 0;
            for (uint64_t page = run.number(); page < end; page++) {
                covered.insert(page);
                since_dirty = dirty.contains(page) ? 0 : since_dirty + 1;
                RC_ASSERT(since_dirty <= gap);
            }
        }
        RC_ASSERT(std::includes(covered.begin(), covered.end(), dirty.begin(), dirty.end()));
    }));
}

TEST(DirtyList, TakeEmptiesTheList) {
    DirtyList list;
    MemoryBlock block;
    list.add({{&block, 0, 16}, {&block, 32, 16}});
    EXPECT_EQ(list.size(), 2u);
    EXPECT_EQ(list.take().size(), 2u);
    EXPECT_EQ(list.size(), 0u);
}

} // namespace

} // namespace hotsnap::memory
