// SPDX-License-Identifier: GPL-2.0-or-later
//
// After arming and the cut every page is protected, as the kernel itself says.
#include "save/arming.h"
#include "snapshot_case.h"
#include "trap/none_trap.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace hotsnap::memory::test {

namespace {

constexpr uint64_t MiB = 1 << 20;

// Pages that /proc/self/pagemap does not show as write-protected by userfaultfd (bit 57).
uint64_t unprotected_pages(const Region &region) {
    const int fd = open("/proc/self/pagemap", O_RDONLY);
    std::vector<uint64_t> entries(region.length() / 4096);
    const auto bytes = static_cast<ssize_t>(entries.size() * 8);
    const auto at = static_cast<off_t>(reinterpret_cast<uint64_t>(region.memory()) / 4096 * 8);
    EXPECT_EQ(pread(fd, entries.data(), static_cast<size_t>(bytes), at), bytes);
    close(fd);
    uint64_t count = 0;
    for (const uint64_t entry : entries) {
        count += (entry >> 57 & 1) == 0;
    }
    return count;
}

class Arming : public testing::TestWithParam<Kind> {};

INSTANTIATE_TEST_SUITE_P(Kinds, Arming,
                         testing::Values(Kind::anonymous, Kind::memfd, Kind::huge_memfd));

TEST_P(Arming, EveryPageIsProtectedAtTheCutAndNoneAfterTheEnd) {
    const uint64_t size = 64 * MiB;
    Region ram("pc.ram", GetParam(), size);
    if (!ram.usable()) {
        GTEST_SKIP() << ram.why();
    }
    ram.fill(0, size / 4096 / 2);
    for (int round = 0; round < 5; round++) {
        Snapshot snapshot({&ram});
        Writers writers({&ram}, 3, size);
        ASSERT_EQ(snapshot.create(), "");
        ASSERT_EQ(snapshot.arm(round == 0 ? 0 : 200'000), "");
        while (snapshot.stats().arm_faults == 0) {
            std::this_thread::yield();
        }
        writers.pause();
        ASSERT_EQ(snapshot.cut(), "");
        EXPECT_EQ(unprotected_pages(ram), 0u);
        const hs_snapshot_stats stats = snapshot.stats();
        EXPECT_GE(stats.arm_passes, 1u);
        EXPECT_LE(stats.cut_pages, size / 4096);
        if (round % 2 == 0) {
            hs_snapshot_abort(snapshot.handle(), "test");
        } else {
            ASSERT_EQ(snapshot.start(), "");
            ASSERT_EQ(snapshot.wait(), "");
        }
        EXPECT_EQ(unprotected_pages(ram), size / 4096);
    }
}

// The armed state is kept: pages that the guest goes on writing do not add up until the cut.
TEST(Arming, StaysConverged) {
    Region ram("pc.ram", Kind::anonymous, 256 * MiB);
    ram.fill(0, 256 * MiB / 4096);
    Snapshot snapshot({&ram});
    Writers writers({&ram}, 2, 256 * MiB);
    ASSERT_EQ(snapshot.create(), "");
    ASSERT_EQ(snapshot.arm(60'000'000), "");
    EXPECT_GT(snapshot.stats().arm_us, 0u);
    while (snapshot.stats().arm_faults < 6000) {
        usleep(1000);
    }
    writers.pause();
    ASSERT_EQ(snapshot.cut(), "");
    // Each fault was of 16 pages. On an idle machine the pages of some 600 faults are left; the
    // number depends on when the upkeep gets a processor. Without upkeep all would be left.
    EXPECT_LT(snapshot.stats().cut_pages, 6000u * 16 / 2);
}

TEST(Arming, AbortEndsItAtOnce) {
    Region ram("pc.ram", Kind::anonymous, 64 * MiB);
    Snapshot snapshot({&ram});
    Writers writers({&ram}, 2, 64 * MiB);
    ASSERT_EQ(snapshot.create(), "");
    std::thread other([&] {
        while (snapshot.stats().arm_passes == 0) {
            std::this_thread::yield();
        }
        hs_snapshot_abort(snapshot.handle(), "changed my mind");
    });
    // Arming converges at once or is stopped before: either way the abort holds.
    snapshot.arm(60'000'000);
    other.join();
    writers.pause();
    EXPECT_EQ(snapshot.cut(), "changed my mind");
    EXPECT_EQ(unprotected_pages(ram), 64 * MiB / 4096);
    EXPECT_EQ(snapshot.folder.files(), 0u);
}

// Counts the runs that it is asked to protect.
class CountingTrap final : public NoneTrap {
  public:
    void arm(const PageRun &) override { armed++; }
    std::atomic<uint64_t> armed{0};
};

// Between stop() and finish() every run is either protected or in the list. A pass that began
// after stop() once took the list, and the runs in it were unprotected at the cut.
TEST(Arming, TakesNothingAfterStop) {
    Region ram("pc.ram", Kind::anonymous, MiB);
    MemoryBlock block;
    block.idstr = "pc.ram";
    block.host = ram.memory();
    block.length = ram.length();
    const GuestMemory memory({block});
    std::vector<PageRun> runs;
    for (uint64_t page = 0; page < 200; page += 20) {
        runs.push_back({&memory.blocks()[0], page, 1});
    }
    for (int round = 0; round < 3000; round++) {
        CountingTrap trap;
        DirtyList dirty;
        hotsnap::memory::Arming arming(memory, trap, dirty, {}, [](const std::string &) {});
        arming.start();
        ASSERT_TRUE(arming.wait_converged(0));
        const uint64_t first_pass = trap.armed;
        dirty.add(runs);
        if (round % 2 == 0) {
            std::this_thread::yield();
        }
        arming.stop();
        const uint64_t armed = trap.armed - first_pass;
        ASSERT_EQ(armed + dirty.take().size(), runs.size()) << "round " << round;
    }
}

} // namespace

} // namespace hotsnap::memory::test
