// SPDX-License-Identifier: GPL-2.0-or-later
//
// Mode precopy: memory is copied before the cut while threads write to it, and the image is the
// memory at the cut all the same; pages become zero and data again; no wait is endless.
#include "snapshot_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <fcntl.h>
#include <thread>
#include <unistd.h>

namespace hotsnap::memory::test {

namespace {

constexpr uint64_t MiB = 1 << 20;

uint64_t manners(const hs_page_counts &pages) {
    return pages.background + pages.guest_write + pages.dma_write + pages.precopy;
}

void wait_rounds(const Snapshot &snapshot, uint64_t more) {
    const uint64_t until = snapshot.stats().precopy_rounds + more;
    while (snapshot.stats().precopy_rounds < until) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

struct Case {
    const char *name;
    Kind kind;
    uint64_t span; // MiB that are written to
    uint64_t staging_bytes;
    int writers;
};

class Precopy : public testing::TestWithParam<Case> {};

TEST_P(Precopy, ImageIsTheMemoryAtTheCut) {
    const Case &setup = GetParam();
    const uint64_t size = setup.kind == Kind::huge_memfd ? 32 * MiB : 48 * MiB;
    Region ram("pc.ram", setup.kind, size);
    if (!ram.usable()) {
        GTEST_SKIP() << ram.why();
    }
    Region rom("pc.rom", Kind::anonymous, 131 * 4096);
    ram.fill(0, size / 4096 / 2);
    rom.fill(3, 77);
    for (int round = 0; round < 3; round++) {
        Snapshot snapshot({&ram, &rom});
        snapshot.options.precopy = true;
        snapshot.options.tuning.staging_bytes = setup.staging_bytes;
        Writers writers({&ram, &rom}, setup.writers, setup.span * MiB);
        snapshot.options.vcpu_tids = writers.tids().data();
        snapshot.options.vcpu_tid_count = writers.tids().size();
        ASSERT_EQ(snapshot.create(), "");
        ASSERT_EQ(snapshot.precopy(), "");
        EXPECT_GT(snapshot.stats().pages.precopy, 0u);
        ASSERT_EQ(snapshot.arm(), "");
        writers.pause();
        ASSERT_EQ(snapshot.cut(), "");
        const hs_snapshot_stats before = snapshot.stats();
        EXPECT_LT(before.bytes_done, before.bytes_total); // what was written is not saved
        // Only the half that was touched: reading the rest of shared memory would populate it.
        std::map<std::string, std::vector<std::byte>> at_cut = {
            {"pc.ram", {ram.memory(), ram.memory() + size / 2}}, {"pc.rom", rom.copy()}};
        at_cut["pc.ram"].resize(size);
        writers.resume();
        while (snapshot.stats().faults == 0) {
            std::this_thread::yield();
        }
        ASSERT_EQ(snapshot.start(), "");
        ASSERT_EQ(snapshot.wait(), "");
        writers.pause();

        const LoadedImage image = snapshot.load();
        for (const auto &[name, memory] : at_cut) {
            EXPECT_EQ(torn_pages(memory, image.blocks.at(name).memory), 0u) << name;
        }
        EXPECT_NE(torn_pages(at_cut.at("pc.ram"), ram.copy()), 0u);
        const hs_snapshot_stats stats = snapshot.stats();
        EXPECT_EQ(manners(stats.pages), stats.pages.total);
        EXPECT_GT(stats.pages.precopy, 0u);
        EXPECT_GT(stats.precopy_pages, stats.pages.precopy / 4);
        EXPECT_EQ(stats.bytes_done, stats.bytes_total);
        EXPECT_EQ(image.bits_set(), stats.pages.total - stats.pages.zero);
        EXPECT_EQ(snapshot.compare_sums(), "");
        std::fill(ram.memory(), ram.memory() + 4096, std::byte{1}); // nothing is protected
    }
}

INSTANTIATE_TEST_SUITE_P(Kinds, Precopy,
                         testing::Values(Case{"anonymous", Kind::anonymous, 24, 0, 2},
                                         Case{"memfd", Kind::memfd, 24, 0, 2},
                                         Case{"privateMemfd", Kind::private_memfd, 24, 0, 2},
                                         Case{"hugetlbfs", Kind::huge_memfd, 16, 0, 2},
                                         Case{"littleIsWritten", Kind::anonymous, 1, 0, 1},
                                         Case{"littleStaging", Kind::anonymous, 24, 1, 3}),
                         [](const auto &info) { return std::string(info.param.name); });

TEST(PrecopyControl, WithoutTheTrapTheImageIsTorn) {
    Region ram("pc.ram", Kind::anonymous, 16 * MiB);
    ram.fill(0, 16 * MiB / 4096);
    Snapshot snapshot({&ram});
    snapshot.options.engine = "none";
    snapshot.options.precopy = true;
    Writers writers({&ram}, 2, 16 * MiB);
    ASSERT_EQ(snapshot.create(), "");
    ASSERT_EQ(snapshot.precopy(), "");
    ASSERT_EQ(snapshot.arm(), "");
    writers.wait_writes(10'000);
    writers.pause();
    ASSERT_EQ(snapshot.cut(), "");
    const auto at_cut = snapshot.copy();
    ASSERT_EQ(snapshot.start(), "");
    ASSERT_EQ(snapshot.wait(), "");
    EXPECT_GT(torn_pages(at_cut.at("pc.ram"), snapshot.load().blocks.at("pc.ram").memory), 0u);
}

std::vector<std::byte> bytes_of(const std::string &path, uint64_t offset, uint64_t size) {
    std::vector<std::byte> bytes(size);
    const int fd = open(path.c_str(), O_RDONLY);
    EXPECT_EQ(pread(fd, bytes.data(), size, static_cast<off_t>(offset)),
              static_cast<ssize_t>(size));
    close(fd);
    return bytes;
}

// Pages that become zero and data again, in the rounds and after the last one: the image has the
// last content, and nothing of an older one.
TEST(Precopy, ZeroPagesReplaceOlderBytes) {
    for (const Kind kind : {Kind::anonymous, Kind::memfd, Kind::huge_memfd}) {
        Region ram("pc.ram", kind, 4 * MiB);
        if (!ram.usable()) {
            continue; // no huge pages: a test above says why
        }
        ram.fill(0, 1024);
        Snapshot snapshot({&ram});
        snapshot.options.precopy = true;
        ASSERT_EQ(snapshot.create(), "");
        ASSERT_EQ(snapshot.precopy(), "");
        EXPECT_TRUE(snapshot.converged);
        const auto put = [&](uint64_t page, uint8_t value) {
            std::fill_n(ram.memory() + page * 4096, 4096, std::byte{value});
        };
        // Page 20: zero. 21: zero, data. 22: data, zero. 23: zero, data, zero. 24: zero only after
        // the last round. 25: data only then, after a zero.
        for (const uint64_t page : {20, 21, 23, 25}) {
            put(page, 0);
        }
        put(22, 5);
        wait_rounds(snapshot, 2);
        put(21, 6);
        put(22, 0);
        put(23, 7);
        wait_rounds(snapshot, 2);
        put(23, 0);
        wait_rounds(snapshot, 2);
        ASSERT_EQ(snapshot.arm(), "");
        put(24, 0);
        put(25, 8);
        ASSERT_EQ(snapshot.cut(), "");
        const auto at_cut = ram.copy();
        put(20, 9);
        put(26, 0);
        ASSERT_EQ(snapshot.start(), "");
        ASSERT_EQ(snapshot.wait(), "");
        const LoadedBlock image = snapshot.load().blocks.at("pc.ram");
        EXPECT_EQ(torn_pages(at_cut, image.memory), 0u);
        EXPECT_EQ(image.bits_set, 1024u - 4);
        EXPECT_EQ(snapshot.stats().pages.zero, 4u);
        // Also where no loader looks.
        EXPECT_EQ(torn_pages(at_cut, bytes_of(snapshot.image, image.pages_offset, 4 * MiB)), 0u);
        EXPECT_EQ(snapshot.compare_sums(), "");
    }
}

// Writers that are faster than the copy: it says so, and ends.
TEST(Precopy, DoesNotWaitForWhatDoesNotConverge) {
    Region ram("pc.ram", Kind::anonymous, 16 * MiB);
    ram.fill(0, 16 * MiB / 4096);
    Snapshot snapshot({&ram});
    snapshot.options.precopy = true;
    snapshot.options.tuning.bandwidth = 24 * MiB;
    Writers writers({&ram}, 2, 16 * MiB);
    ASSERT_EQ(snapshot.create(), "");
    ASSERT_EQ(snapshot.precopy(), "");
    EXPECT_FALSE(snapshot.converged);
    const hs_snapshot_stats stats = snapshot.stats();
    EXPECT_EQ(stats.precopy_converged, 0u);
    EXPECT_GE(stats.precopy_rounds, 2u);
    EXPECT_GT(stats.precopy_written, 64u);
    hs_snapshot_set_bandwidth(snapshot.handle(), 0);
    ASSERT_EQ(snapshot.arm(), "");
    writers.pause();
    ASSERT_EQ(snapshot.cut(), "");
    const auto at_cut = snapshot.copy();
    writers.resume();
    ASSERT_EQ(snapshot.start(), "");
    ASSERT_EQ(snapshot.wait(), "");
    EXPECT_EQ(torn_pages(at_cut.at("pc.ram"), snapshot.load().blocks.at("pc.ram").memory), 0u);
}

// The rounds do not hold up arm(), whatever the bandwidth.
TEST(Precopy, EndsInTheMiddleOfARound) {
    Region ram("pc.ram", Kind::anonymous, 16 * MiB);
    ram.fill(0, 16 * MiB / 4096);
    Snapshot snapshot({&ram});
    snapshot.options.precopy = true;
    ASSERT_EQ(snapshot.create(), "");
    ASSERT_EQ(snapshot.precopy(), "");
    ASSERT_TRUE(snapshot.converged);
    EXPECT_EQ(snapshot.stats().precopy_converged, 1u);
    hs_snapshot_set_bandwidth(snapshot.handle(), 4096);
    ram.fill(0, 16 * MiB / 4096);
    // The round that is under way, or the next one, has pages to copy again: it would take an hour.
    while (snapshot.stats().bytes_done == snapshot.stats().bytes_total) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    ASSERT_EQ(snapshot.arm(), "");
    hs_snapshot_set_bandwidth(snapshot.handle(), 0);
    ASSERT_EQ(snapshot.cut(), "");
    const auto at_cut = snapshot.copy();
    ASSERT_EQ(snapshot.start(), "");
    ASSERT_EQ(snapshot.wait(), "");
    EXPECT_EQ(torn_pages(at_cut.at("pc.ram"), snapshot.load().blocks.at("pc.ram").memory), 0u);
    EXPECT_EQ(snapshot.compare_sums(), "");
}

TEST(Precopy, AnAbortEndsItAtAnyTime) {
    Region ram("pc.ram", Kind::anonymous, 16 * MiB);
    ram.fill(0, 16 * MiB / 4096);
    for (int round = 0; round < 16; round++) {
        Snapshot snapshot({&ram});
        snapshot.options.precopy = true;
        snapshot.options.tuning.bandwidth = round % 3 == 0 ? 1 : 0;
        Writers writers({&ram}, 2, 8 * MiB);
        ASSERT_EQ(snapshot.create(), "");
        std::thread other([&] {
            std::this_thread::sleep_for(std::chrono::microseconds(round * round * 150));
            hs_snapshot_abort(snapshot.handle(), "no more");
        });
        const std::string error = snapshot.precopy();
        EXPECT_TRUE(error == "no more" || (error.empty() && round % 3 != 0)) << error;
        const std::string armed = snapshot.arm();
        EXPECT_TRUE(armed == "no more" || armed.empty()) << armed;
        other.join();
        EXPECT_EQ(snapshot.folder.files(), 0u);
        EXPECT_EQ(snapshot.cut(), "no more");
        writers.wait_writes(10'000); // every writer still runs
        snapshot.free();
        EXPECT_EQ(snapshot.finished_calls(), 0);
    }
}

TEST(Precopy, IsRefusedWhereItCannotBe) {
    Region ram("pc.ram", Kind::anonymous, MiB);
    {
        Snapshot snapshot({&ram});
        ASSERT_EQ(snapshot.create(), "");
        EXPECT_NE(snapshot.precopy().find("option precopy"), std::string::npos);
    }
    Snapshot snapshot({&ram});
    snapshot.options.precopy = true;
    snapshot.options.engine = "kvm";
    EXPECT_NE(snapshot.create().find("cannot copy memory before the cut"), std::string::npos);
    snapshot.options.engine = "auto";
    ASSERT_EQ(snapshot.create(), "");
    EXPECT_STREQ(snapshot.stats().engine, "uffd");
}

} // namespace

} // namespace hotsnap::memory::test
