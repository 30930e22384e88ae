// SPDX-License-Identifier: GPL-2.0-or-later
//
// Absent pages are found, data is never taken for absent, and each copy equals its page.
#include "save/page_reader.h"

#include "guest.h"
#include "trap/uffd_trap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <fcntl.h>

namespace hotsnap::memory {

namespace {

using test::block_of;
using test::Kind;
using test::Region;

constexpr uint64_t MiB = 1 << 20;

class Reader : public testing::TestWithParam<Kind> {};

INSTANTIATE_TEST_SUITE_P(Kinds, Reader,
                         testing::Values(Kind::anonymous, Kind::memfd, Kind::private_memfd,
                                         Kind::huge_memfd, Kind::huge_anonymous));

TEST_P(Reader, FindsWhatIsAbsentWithAndWithoutProtection) {
    Region region("ram", GetParam(), 8 * MiB);
    if (!region.usable()) {
        GTEST_SKIP() << region.why();
    }
    // Pieces of data, pages of zeros that are there all the same, and holes.
    region.fill(512, 3);
    region.fill(700, 100);
    std::memset(region.memory() + 900 * page_bytes, 0, 5 * page_bytes);
    region.fill(2047, 1);
    const GuestMemory memory({block_of(region)});
    const MemoryBlock &block = memory.blocks().front();
    const auto has_data = [](uint64_t page) {
        return (page >= 512 && page < 515) || (page >= 700 && page < 800) || page == 2047;
    };
    const auto is_there = [&](uint64_t page) {
        return has_data(page) || (page >= 900 && page < 905);
    };
    const uint64_t populated = region.populated();
    UffdTrap trap;
    trap.attach(memory);
    for (const bool armed : {false, true}) {
        if (armed) {
            trap.arm({&block, 0, block.pages()});
        }
        const PageReader reader(memory, trap.absent_pagemap_entry());
        std::vector<bool> absent(2048);
        reader.find_absent({&block, 0, 2048}, absent);
        const bool exact = !block.huge() && (block.shared || !armed || trap.absent_pagemap_entry());
        for (uint64_t page = 0; page < 2048; page++) {
            EXPECT_FALSE(absent[page] && is_there(page)) << page;
            EXPECT_TRUE(absent[page] || is_there(page) || !exact) << page;
        }
        EXPECT_GE(reader.resident_bytes(0), 109 * page_bytes);
        if (GetParam() == Kind::memfd) {
            EXPECT_EQ(reader.resident_bytes(0), 109 * page_bytes);
        }
        EXPECT_LE(reader.resident_bytes(0), block.length);
        // Another start than the block's, and no more than asked for.
        std::vector<bool> some(20);
        reader.find_absent({&block, 690, 20}, some);
        for (uint64_t i = 0; i < 20; i++) {
            EXPECT_EQ(some[i], absent[690 + i]) << i;
        }
        AlignedBuffer slot(group_bytes);
        for (uint64_t group = 0; group < 2048; group += group_pages) {
            unsigned mask = 0;
            for (uint64_t i = 0; i < group_pages; i++) {
                mask |= absent[group + i] ? 0 : 1u << i;
            }
            if (mask == 0) {
                continue;
            }
            const GroupMask data =
                reader.copy(block, group, static_cast<GroupMask>(mask), slot.bytes().data());
            for (uint64_t i = 0; i < group_pages; i++) {
                EXPECT_EQ((data >> i & 1) != 0, has_data(group + i)) << group + i;
                EXPECT_TRUE(!has_data(group + i) ||
                            std::memcmp(slot.bytes().data() + i * page_bytes,
                                        block.host + (group + i) * page_bytes, page_bytes) == 0);
            }
        }
    }
    if (GetParam() == Kind::memfd || GetParam() == Kind::huge_memfd) {
        EXPECT_EQ(region.populated(), populated);
    }
}

// Without a way to tell a protected hole from a swapped page, every page is read: slow but right.
TEST(PageReader, WithoutTheEntryOfAHoleNothingProtectedCountsAsAbsent) {
    Region region("ram", Kind::anonymous, MiB);
    const GuestMemory memory({block_of(region)});
    const MemoryBlock &block = memory.blocks().front();
    UffdTrap trap;
    trap.attach(memory);
    trap.arm({&block, 0, block.pages()});
    const PageReader reader(memory, std::nullopt);
    std::vector<bool> absent(256);
    reader.find_absent({&block, 0, 256}, absent);
    AlignedBuffer slot(group_bytes);
    EXPECT_EQ(reader.copy(block, 0, 0xffff, slot.bytes().data()), 0);
}

} // namespace

} // namespace hotsnap::memory
