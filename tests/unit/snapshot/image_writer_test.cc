// SPDX-License-Identifier: GPL-2.0-or-later
#include "image/image_writer.h"

#include "guest.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cstring>
#include <fstream>

namespace hotsnap::memory {

namespace {

std::vector<char> read_all(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// Groups in any order with any pages: the file has each page at its place, zeros elsewhere, and
// the sums are those of the file; every slot comes back.
TEST(ImageWriter, EveryPageArrivesAtItsPlace) {
    EXPECT_TRUE(rc::check([] {
        const test::Folder folder;
        const std::string path = folder.path("image");
        const auto groups = *rc::gen::inRange<uint64_t>(1, 60);
        const uint64_t start = 1 << 20;
        const uint64_t size = start + groups * group_bytes;
        StagingPool pool(8, 0);
        std::vector<char> expected(size);
        {
            ImageWriter writer(path, size, pool, [](const std::string &m) { FAIL() << m; });
            auto order = *rc::gen::container<std::vector<bool>>(groups, rc::gen::arbitrary<bool>());
            std::vector<uint64_t> sequence;
            for (const bool later : {false, true}) { // neighbors stay neighbors, mostly
                for (uint64_t i = 0; i < groups; i++) {
                    if (order[i] == later) {
                        sequence.push_back(i);
                    }
                }
            }
            for (const uint64_t group : sequence) {
                const auto mask = *rc::gen::element<GroupMask>(0xffff, 0x0001, 0x8000, 0xfff0,
                                                               0x0fff, 0x5555, 0xf00f);
                Slot slot;
                pool.acquire(StagingPool::User::background, {&slot, 1});
                std::memset(slot, 0xee, group_bytes); // zero pages leave old bytes
                const uint64_t offset = start + group * group_bytes;
                for (uint64_t page = 0; page < group_pages; page++) {
                    if ((mask >> page & 1) != 0) {
                        const int fill = static_cast<int>(group * 16 + page) % 255 + 1;
                        std::memset(slot + page * page_bytes, fill, page_bytes);
                        std::memset(expected.data() + offset + page * page_bytes, fill, page_bytes);
                    }
                }
                const StagedGroup staged{slot, offset, mask};
                writer.submit({&staged, 1});
            }
            RC_ASSERT(writer.drain());
            const std::string head = "head";
            writer.write_metadata(0, std::as_bytes(std::span(head)));
            const std::string tail = "tail";
            writer.write_metadata(size, std::as_bytes(std::span(tail)));
            writer.finish(size + 4);
            std::copy(head.begin(), head.end(), expected.begin());
            expected.insert(expected.end(), tail.begin(), tail.end());
            const SumsTable found = sum_file(path, page_bytes, [] { return false; });
            RC_ASSERT(found.sums() == writer.sums().sums());
            RC_ASSERT(found.file_size() == writer.sums().file_size());
        }
        RC_ASSERT(read_all(path) == expected);
        std::vector<Slot> all(8);
        RC_ASSERT(pool.try_acquire(StagingPool::User::fault, all));
        pool.release(all);
    }));
}

TEST(ImageWriter, DiscardReturnsTheSlotsAndWritesNothingMore) {
    const test::Folder folder;
    StagingPool pool(64, 0);
    ImageWriter writer(folder.path("image"), 64 * group_bytes, pool, [](const std::string &) {});
    writer.discard();
    std::vector<Slot> slots(64);
    ASSERT_TRUE(pool.try_acquire(StagingPool::User::fault, slots));
    std::vector<StagedGroup> staged;
    for (size_t i = 0; i < slots.size(); i++) {
        staged.push_back({slots[i], i * group_bytes, 0xffff});
    }
    writer.submit(staged);
    EXPECT_FALSE(writer.drain());
    EXPECT_TRUE(pool.try_acquire(StagingPool::User::fault, slots));
    EXPECT_EQ(writer.bytes_written(), 0u);
}

} // namespace

} // namespace hotsnap::memory
