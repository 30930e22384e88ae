// SPDX-License-Identifier: GPL-2.0-or-later
//
// The image is the memory at the cut: real userfaultfd, real memory of every kind, threads that
// write all the time. With the trap off the same check must fail.
#include "snapshot_case.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <thread>

namespace hotsnap::memory::test {

namespace {

constexpr uint64_t MiB = 1 << 20;

struct Case {
    const char *name;
    Kind kind;
    uint32_t cluster_pages;
    uint64_t staging_bytes;
    int writers;
};

std::ostream &operator<<(std::ostream &out, const Case &setup) {
    return out << setup.name;
}

class Identity : public testing::TestWithParam<Case> {};

TEST_P(Identity, ImageIsTheMemoryAtTheCut) {
    const Case &setup = GetParam();
    const bool huge = setup.kind == Kind::huge_memfd || setup.kind == Kind::huge_anonymous;
    const uint64_t size = huge ? 32 * MiB : 48 * MiB;
    Region ram("pc.ram", setup.kind, size);
    if (!ram.usable()) {
        GTEST_SKIP() << ram.why();
    }
    // Its size is no multiple of a chunk or of a group, and it is another kind of memory.
    Region rom("pc.rom", Kind::anonymous, 131 * 4096);
    ram.fill(0, size / 4096 / 2);
    rom.fill(3, 77);
    const uint64_t populated = ram.populated();

    Snapshot snapshot({&ram, &rom});
    snapshot.options.tuning.cluster_pages = setup.cluster_pages;
    snapshot.options.tuning.staging_bytes = setup.staging_bytes;
    Writers writers({&ram, &rom}, setup.writers, size / 2);
    snapshot.options.vcpu_tids = writers.tids().data();
    snapshot.options.vcpu_tid_count = writers.tids().size();

    ASSERT_EQ(snapshot.create(), "");
    ASSERT_EQ(snapshot.arm(), "");
    writers.pause();
    ASSERT_EQ(snapshot.cut(), "");
    // Only the half that was touched: reading the rest of shared memory would populate it.
    std::map<std::string, std::vector<std::byte>> at_cut = {
        {"pc.ram", {ram.memory(), ram.memory() + size / 2}}, {"pc.rom", rom.copy()}};
    at_cut["pc.ram"].resize(size);
    const uint64_t writes = writers.writes();
    writers.resume();
    // On a busy host the copy could be over before a writer has had its turn.
    while (snapshot.stats().faults == 0 || writers.writes() == writes) {
        std::this_thread::yield();
    }
    ASSERT_EQ(snapshot.start(), "");
    ASSERT_EQ(snapshot.wait(), "");
    writers.pause();

    const LoadedImage image = snapshot.load();
    EXPECT_EQ(image.order, (std::vector<std::string>{"pc.ram", "pc.rom"}));
    EXPECT_EQ(image.tail, Snapshot::tail);
    for (const auto &[name, memory] : at_cut) {
        EXPECT_EQ(torn_pages(memory, image.blocks.at(name).memory), 0u) << name;
    }
    if (setup.kind == Kind::memfd || setup.kind == Kind::huge_memfd) {
        EXPECT_EQ(populated, size / 2);
        EXPECT_EQ(ram.populated(), populated);
    }
    // The writers went on: memory has changed, or the test shows nothing.
    EXPECT_NE(torn_pages(at_cut.at("pc.ram"), ram.copy()), 0u);

    const hs_snapshot_stats stats = snapshot.stats();
    EXPECT_EQ(stats.pages.total, (size + 131 * 4096) / 4096);
    EXPECT_EQ(stats.pages.background + stats.pages.guest_write + stats.pages.dma_write,
              stats.pages.total);
    EXPECT_GT(stats.faults, 0u);
    EXPECT_GT(stats.pages.guest_write, 0u);
    EXPECT_EQ(stats.pages.dma_write, 0u);
    EXPECT_EQ(stats.bytes_done, stats.bytes_total);
    EXPECT_EQ(stats.image_size, image.file_size);
    EXPECT_GE(stats.pages.zero, size / 4096 / 2);
    EXPECT_EQ(image.bits_set(), stats.pages.total - stats.pages.zero);

    ASSERT_EQ(snapshot.compare_sums(), "");
    char *error = nullptr;
    uint64_t xxh3 = 0;
    ASSERT_TRUE(hs_file_xxh3(snapshot.sums.c_str(), &xxh3, &error)) << error;
    EXPECT_EQ(xxh3, stats.sums_xxh3);
}

INSTANTIATE_TEST_SUITE_P(Kinds, Identity,
                         testing::Values(Case{"anonymous", Kind::anonymous, 0, 0, 2},
                                         Case{"memfd", Kind::memfd, 0, 0, 2},
                                         Case{"privateMemfd", Kind::private_memfd, 0, 0, 2},
                                         Case{"hugetlbfs", Kind::huge_memfd, 0, 0, 2},
                                         Case{"hugetlbAnonymous", Kind::huge_anonymous, 0, 0, 2},
                                         Case{"manyWriters", Kind::anonymous, 0, 0, 6},
                                         Case{"onePageClusters", Kind::anonymous, 1, 0, 2},
                                         Case{"largeClusters", Kind::memfd, 128, 0, 2},
                                         Case{"littleStaging", Kind::anonymous, 0, 1, 2}),
                         [](const auto &info) { return std::string(info.param.name); });

TEST(IdentityControl, WithoutTheTrapTheImageIsTorn) {
    Region ram("pc.ram", Kind::anonymous, 64 * MiB);
    ram.fill(0, 64 * MiB / 4096);
    Snapshot snapshot({&ram});
    snapshot.options.engine = "none";
    snapshot.options.tuning.bandwidth = 256 * MiB; // time for the writers to get ahead of the copy
    Writers writers({&ram}, 2, 64 * MiB);
    ASSERT_EQ(snapshot.create(), "");
    ASSERT_EQ(snapshot.arm(), "");
    writers.pause();
    ASSERT_EQ(snapshot.cut(), "");
    const auto at_cut = snapshot.copy();
    writers.resume();
    ASSERT_EQ(snapshot.start(), "");
    ASSERT_EQ(snapshot.wait(), "");
    writers.pause();
    EXPECT_GT(torn_pages(at_cut.at("pc.ram"), snapshot.load().blocks.at("pc.ram").memory), 0u);
    EXPECT_STREQ(snapshot.stats().engine, "none");
    EXPECT_EQ(snapshot.stats().faults, 0u);
}

TEST(Identity, DumpHoldsTheSameMemory) {
    Region ram("pc.ram", Kind::anonymous, 16 * MiB);
    ram.fill(100, 2000);
    Snapshot snapshot({&ram});
    Writers writers({&ram}, 2, 8 * MiB);
    ASSERT_EQ(snapshot.create(), "");
    ASSERT_EQ(snapshot.arm(), "");
    writers.pause();
    ASSERT_EQ(snapshot.cut(), "");
    const std::string dump = snapshot.folder.path("dump");
    ASSERT_EQ(snapshot.dump(dump), "");
    writers.resume();
    ASSERT_EQ(snapshot.start(), "");
    ASSERT_EQ(snapshot.wait(), "");
    const LoadedImage one = snapshot.load();
    const LoadedImage other = snapshot.load(dump);
    EXPECT_EQ(one.blocks.at("pc.ram").memory, other.blocks.at("pc.ram").memory);
    EXPECT_EQ(one.blocks.at("pc.ram").bits_set, other.blocks.at("pc.ram").bits_set);
    EXPECT_TRUE(other.tail.empty());
}

// The used length need not be whole huge pages.
TEST(Identity, BlockThatEndsInsideAHugePage) {
    for (const Kind kind : {Kind::huge_memfd, Kind::huge_anonymous}) {
        Region ram("pc.ram", kind, 6 * MiB);
        if (!ram.usable()) {
            GTEST_SKIP() << ram.why();
        }
        const uint64_t used = 4 * MiB + 21 * 4096;
        ram.fill(0, 1536);
        Snapshot snapshot({&ram});
        snapshot.adjust = [](hs_ram_block &block) { block.length = used; };
        Writers writers({&ram}, 2, 6 * MiB);
        ASSERT_EQ(snapshot.create(), "");
        ASSERT_EQ(snapshot.arm(), "");
        writers.pause();
        ASSERT_EQ(snapshot.cut(), "");
        std::vector<std::byte> at_cut(ram.memory(), ram.memory() + used);
        writers.resume();
        ASSERT_EQ(snapshot.start(), "");
        ASSERT_EQ(snapshot.wait(), "");
        EXPECT_EQ(torn_pages(at_cut, snapshot.load().blocks.at("pc.ram").memory), 0u);
    }
}

TEST(Holes, UntouchedMemoryIsNeitherPopulatedNorWritten) {
    for (const Kind kind : {Kind::anonymous, Kind::memfd, Kind::private_memfd, Kind::huge_memfd}) {
        Region ram("pc.ram", kind, 256 * MiB);
        if (!ram.usable()) {
            continue; // no huge pages: a test above says why
        }
        ram.fill(70, 100);
        const uint64_t populated = ram.populated();
        Snapshot snapshot({&ram});
        ASSERT_EQ(snapshot.create(), "");
        ASSERT_EQ(snapshot.arm(), "");
        ASSERT_EQ(snapshot.cut(), "");
        ASSERT_EQ(snapshot.start(), "");
        ASSERT_EQ(snapshot.wait(), "");
        EXPECT_LE(ram.populated(), populated);
        const LoadedImage image = snapshot.load();
        EXPECT_EQ(image.blocks.at("pc.ram").bits_set, 100u);
        EXPECT_LT(image.allocated, 2 * MiB);
        EXPECT_EQ(snapshot.stats().pages.zero, 256 * MiB / 4096 - 100);
    }
}

TEST(Manners, WritesOfOtherThreadsAreDma) {
    Region ram("pc.ram", Kind::anonymous, 16 * MiB);
    ram.fill(0, 4096);
    Snapshot snapshot({&ram});
    ASSERT_EQ(snapshot.create(), "");
    ASSERT_EQ(snapshot.arm(), "");
    ASSERT_EQ(snapshot.cut(), "");
    {
        Writers device({&ram}, 1, 16 * MiB);
        while (snapshot.stats().faults < 20) {
            std::this_thread::yield();
        }
    }
    ASSERT_EQ(snapshot.start(), "");
    ASSERT_EQ(snapshot.wait(), "");
    const hs_snapshot_stats stats = snapshot.stats();
    EXPECT_GT(stats.pages.dma_write, 0u);
    EXPECT_EQ(stats.pages.guest_write, 0u);
    EXPECT_GT(stats.pages.neighbors, 0u);
    EXPECT_EQ(stats.pages.dma_write - stats.pages.neighbors, stats.faults);
}

} // namespace

} // namespace hotsnap::memory::test
