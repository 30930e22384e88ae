// SPDX-License-Identifier: GPL-2.0-or-later
#include "lazy_case.h"
#include "restore/missing_trap.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>

namespace hotsnap::memory {

namespace {

using test::eventually;
using test::guest_read;
using test::guest_write;
using test::Kind;
using test::Load;
using test::misread;
using test::Region;
using test::SavedImage;

constexpr uint64_t MiB = 1 << 20;
constexpr uint64_t slow = 1; // byte a second: the background load stays behind its first MiB

class LazyLoad : public testing::TestWithParam<Kind> {
  protected:
    Region source{"pc.ram", GetParam(), 8 * MiB};
    Region small{"pc.bios", Kind::anonymous, 256 << 10};
    Region target{"pc.ram", GetParam(), 8 * MiB};
    Region small_target{"pc.bios", Kind::anonymous, 256 << 10};
    std::unique_ptr<SavedImage> saved;

    void SetUp() override {
        source.fill(0, 300);
        source.fill(310, 90); // a short gap, and then 624 zero pages
        source.fill(1024, 512);
        source.fill(2000, 48); // the last of the block
        small.fill(3, 7);
        saved = std::make_unique<SavedImage>(std::vector<const Region *>{&source, &small});
        target.fill(0, 2048); // what is there before must not be seen
        small_target.fill(0, 64);
    }
    std::vector<const Region *> targets() const { return {&target, &small_target}; }
    bool identical() const {
        return target.copy() == source.copy() && small_target.copy() == small.copy();
    }
};

INSTANTIATE_TEST_SUITE_P(Kinds, LazyLoad, testing::Values(Kind::anonymous, Kind::memfd));

TEST_P(LazyLoad, BringsEveryPageExactlyOnce) {
    Load load(*saved);
    ASSERT_EQ(load.open(), "");
    ASSERT_EQ(load.attach(targets()), "");
    ASSERT_EQ(load.wait(), "");
    const hs_load_stats stats = load.stats();
    EXPECT_TRUE(identical());
    EXPECT_TRUE(eventually([&] { return load.completions == 1; }));
    EXPECT_EQ(load.failures, 0);
    EXPECT_EQ(stats.total, 2048u + 64u);
    EXPECT_EQ(stats.total,
              stats.untrapped + stats.background + stats.demand_guest + stats.demand_device);
    EXPECT_EQ(stats.untrapped, 64u + 624u); // the gap of 464 pages is too short
    EXPECT_EQ(stats.zero, 10u + 464u);
    EXPECT_EQ(stats.remaining, 0u);
    EXPECT_TRUE(stats.complete);
    EXPECT_TRUE(hs_load_takes(load.handle(), "pc.ram", 8 * MiB, saved->pages_offset("pc.ram")));
    EXPECT_FALSE(hs_load_takes(load.handle(), "pc.ram", 8 * MiB, 0));
    EXPECT_FALSE(hs_load_takes(load.handle(), "other", 8 * MiB, MiB));
}

TEST_P(LazyLoad, ThreadsThatTouchPagesAtOnceSeeTheirContent) {
    Load load(*saved);
    ASSERT_EQ(load.open(), "");
    ASSERT_EQ(load.attach(targets()), "");
    EXPECT_EQ(misread(target, source, 3000), 0);
    EXPECT_EQ(load.wait(), "");
    EXPECT_TRUE(identical());
}

TEST_P(LazyLoad, WritesWhileItLoadsAreKept) {
    Load load(*saved);
    load.options.bandwidth = slow;
    ASSERT_EQ(load.open(), "");
    ASSERT_EQ(load.attach(targets()), "");
    for (uint64_t page = 0; page < 2048; page += 37) {
        guest_write(target.memory() + page * page_bytes + 5, 0x77);
        guest_write(source.memory() + page * page_bytes + 5, 0x77);
    }
    hs_load_set_bandwidth(load.handle(), 0);
    EXPECT_EQ(load.wait(), "");
    EXPECT_TRUE(identical());
    EXPECT_GT(load.stats().faults, 0u);
}

TEST_P(LazyLoad, ReadsIntoAbsentMemoryByTheKernelAreServed) {
    Load load(*saved);
    load.options.bandwidth = slow;
    ASSERT_EQ(load.open(), "");
    ASSERT_EQ(load.attach(targets()), "");
    std::array<int, 2> ends{};
    ASSERT_EQ(pipe(ends.data()), 0);
    // The kernel reads one absent page, and writes to a part of another.
    ASSERT_EQ(write(ends[1], target.memory() + 1100 * page_bytes, 100), 100);
    ASSERT_EQ(read(ends[0], target.memory() + 1500 * page_bytes + 50, 100), 100);
    std::copy_n(source.memory() + 1100 * page_bytes, 100, source.memory() + 1500 * page_bytes + 50);
    hs_load_set_bandwidth(load.handle(), 0);
    EXPECT_EQ(load.wait(), "");
    EXPECT_TRUE(identical());
    EXPECT_GE(load.stats().demand_device, 2u);
    close(ends[0]);
    close(ends[1]);
}

TEST_P(LazyLoad, ADamagedPageIsNeverSeenAndComesWhenItIsMended) {
    const uint64_t bad = saved->pages_offset("pc.ram") + 1300 * page_bytes + 17;
    Load load(*saved);
    load.options.bandwidth = slow;
    ASSERT_EQ(load.open(), "");
    ASSERT_EQ(load.attach(targets()), "");
    saved->flip(bad);
    std::atomic<int> seen = -1;
    std::thread guest([&] { seen = guest_read(target.memory() + 1300 * page_bytes + 17); });
    EXPECT_TRUE(eventually([&] { return load.failures == 1; }));
    // Its neighbors are good, and other pages come.
    EXPECT_EQ(guest_read(target.memory() + 1301 * page_bytes),
              static_cast<uint8_t>(source.memory()[1301 * page_bytes]));
    hs_load_failure failure{};
    ASSERT_TRUE(hs_load_get_failure(load.handle(), &failure));
    EXPECT_STREQ(failure.block, "pc.ram");
    EXPECT_EQ(failure.block_offset, 1300 * page_bytes);
    EXPECT_EQ(failure.file_offset, bad - 17);
    EXPECT_NE(std::string(failure.message).find("wrong checksum"), std::string::npos);
    hs_string_free(failure.message);
    hs_string_free(failure.block);
    EXPECT_NE(load.wait(), "");
    EXPECT_FALSE(hs_load_free(load.handle()));
    hs_load_retry(load.handle()); // in vain: told once more
    EXPECT_TRUE(eventually([&] { return load.failures == 2; }));
    hs_load_set_bandwidth(load.handle(), 0);
    EXPECT_TRUE(eventually([&] { return load.stats().remaining == 1; }));
    EXPECT_EQ(seen, -1);
    saved->flip(bad);
    hs_load_retry(load.handle());
    guest.join();
    EXPECT_EQ(seen, static_cast<uint8_t>(source.memory()[1300 * page_bytes + 17]));
    EXPECT_TRUE(eventually([&] { return load.completions == 1; }));
    EXPECT_EQ(load.failures, 2);
    EXPECT_TRUE(identical());
}

TEST_P(LazyLoad, DamageThatNobodyTouchesIsFoundInTheBackgroundAndHealsByItself) {
    const uint64_t bad = saved->pages_offset("pc.ram") + 2047 * page_bytes;
    saved->flip(bad);
    Load load(*saved);
    ASSERT_EQ(load.open(), ""); // no pass over the pages comes first
    ASSERT_EQ(load.attach(targets()), "");
    EXPECT_TRUE(eventually([&] { return load.failures == 1; }));
    EXPECT_TRUE(eventually([&] { return load.stats().remaining == 1; }));
    EXPECT_TRUE(load.stats().failed);
    saved->flip(bad);
    EXPECT_TRUE(eventually([&] { return load.completions == 1; })); // without a retry
    EXPECT_TRUE(identical());
}

TEST_P(LazyLoad, ATruncatedImageIsAFailureThatCanBeMended) {
    std::vector<std::byte> whole;
    Load load(*saved);
    load.options.bandwidth = slow;
    ASSERT_EQ(load.open(), "");
    ASSERT_EQ(load.attach(targets()), "");
    const std::string copy = saved->folder.path("copy");
    ASSERT_EQ(std::system(("cp " + saved->image + " " + copy).c_str()), 0);
    saved->truncate(saved->pages_offset("pc.ram") + 1200 * page_bytes);
    hs_load_set_bandwidth(load.handle(), 0);
    EXPECT_TRUE(eventually([&] { return load.stats().damaged > 100; }));
    EXPECT_EQ(load.failures, 1);
    ASSERT_EQ(std::system(("cat " + copy + " >" + saved->image).c_str()), 0);
    hs_load_retry(load.handle());
    EXPECT_TRUE(eventually([&] { return load.completions == 1; }));
    EXPECT_TRUE(identical());
}

TEST_P(LazyLoad, MemoryThatIsTakenAwayIsForgotten) {
    Load load(*saved);
    load.options.bandwidth = slow;
    ASSERT_EQ(load.open(), "");
    ASSERT_EQ(load.attach(targets()), "");
    hs_load_forget(load.handle(), target.memory());
    EXPECT_EQ(load.wait(), "");
    EXPECT_EQ(load.stats().remaining, 0u);
    EXPECT_EQ(small_target.copy(), small.copy());
}

TEST_P(LazyLoad, WhatDoesNotFitIsRefusedBeforeAnythingIsChanged) {
    const std::vector<std::byte> before = target.copy();
    Region shorter("pc.ram", GetParam(), 4 * MiB);
    const std::vector<std::pair<std::vector<const Region *>, const char *>> cases = {
        {{&shorter, &small_target}, "4194304 bytes here and 8388608"},
        {{&target}, "memory blocks that this machine has not"},
        {{&small_target}, "memory blocks that this machine has not"},
    };
    for (const auto &[regions, pattern] : cases) {
        Load load(*saved);
        ASSERT_EQ(load.open(), "");
        const std::string error = load.attach(regions);
        EXPECT_NE(error.find(pattern), std::string::npos) << error;
        EXPECT_FALSE(load.changed);
    }
    EXPECT_EQ(target.copy(), before);
}

// Why hs_load_free refuses while pages are absent. If this fails, the kernel has changed.
TEST(LazyLoadControl, AClosedDescriptorShowsZeros) {
    Region region("pc.ram", Kind::anonymous, 2 * MiB);
    region.fill(0, 512);
    std::atomic<int> seen = -1;
    auto trap = std::make_unique<MissingTrap>(false, false);
    const auto address = reinterpret_cast<uint64_t>(region.memory());
    ASSERT_TRUE(trap->trap(address, region.length(), false));
    ASSERT_EQ(madvise(region.memory(), region.length(), MADV_DONTNEED), 0);
    std::thread guest([&] { seen = guest_read(region.memory() + 9 * page_bytes); });
    std::array<MissingTrap::Fault, 1> fault;
    while (trap->next_faults(fault) == 0) {
        std::this_thread::yield();
    }
    EXPECT_EQ(seen, -1);
    trap.reset();
    guest.join();
    EXPECT_EQ(seen, 0);
}

TEST(LazyLoadControl, TheKernelDoesNotInstallOverAPage) {
    Region region("pc.ram", Kind::anonymous, 2 * MiB);
    region.fill(0, 1);
    MissingTrap trap(false, false);
    const auto address = reinterpret_cast<uint64_t>(region.memory());
    ASSERT_TRUE(trap.trap(address, region.length(), false));
    const std::vector<std::byte> page(page_bytes, std::byte{7});
    EXPECT_EQ(trap.install(address, page), MissingTrap::Outcome::occupied);
    EXPECT_EQ(trap.install(address + 9 * page_bytes, page), MissingTrap::Outcome::installed);
    EXPECT_EQ(guest_read(region.memory() + 9 * page_bytes + 1), 7);
    trap.release(address, region.length());
    EXPECT_EQ(trap.install(address + 11 * page_bytes, page), MissingTrap::Outcome::gone);
}

} // namespace

} // namespace hotsnap::memory
