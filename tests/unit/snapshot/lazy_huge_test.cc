// SPDX-License-Identifier: GPL-2.0-or-later
//
// Memory in huge pages, loaded on demand: a page of 2 MiB comes as a whole.
#include "lazy_case.h"

#include <gtest/gtest.h>

#include <thread>

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
constexpr uint64_t slow = 1; // byte a second
constexpr uint64_t unit = 512;

class LazyHuge : public testing::TestWithParam<Kind> {
  protected:
    // Of anonymous memory the last huge page is used in part.
    const uint64_t length = GetParam() == Kind::huge_anonymous ? 9 * MiB : 10 * MiB;
    const uint64_t last = length / page_bytes - 4 * unit;
    Region source{"pc.ram", Kind::anonymous, length};
    Region target{"pc.ram", GetParam(), length};
    std::unique_ptr<SavedImage> saved;

    void SetUp() override {
        if (!target.usable()) {
            GTEST_SKIP() << target.why();
        }
        source.fill(5, 300);
        source.fill(3 * unit + 7, 100); // the second and the third are zero
        source.fill(4 * unit + 255, 1); // the last page of all
        saved = std::make_unique<SavedImage>(std::vector<const Region *>{&source});
        target.fill(0, length / page_bytes); // what is there before must not be seen
    }
};

INSTANTIATE_TEST_SUITE_P(Kinds, LazyHuge, testing::Values(Kind::huge_memfd, Kind::huge_anonymous));

TEST_P(LazyHuge, BringsEveryPageExactlyOnce) {
    Load load(*saved);
    ASSERT_EQ(load.open(), "");
    ASSERT_EQ(load.attach({&target}), "");
    ASSERT_EQ(load.wait(), "");
    const hs_load_stats stats = load.stats();
    EXPECT_EQ(target.copy(), source.copy());
    EXPECT_TRUE(eventually([&] { return load.completions == 1; }));
    EXPECT_EQ(stats.total, length / page_bytes);
    EXPECT_EQ(stats.untrapped, 2 * unit);
    EXPECT_EQ(stats.total,
              stats.untrapped + stats.background + stats.demand_guest + stats.demand_device);
    EXPECT_EQ(stats.zero, 2 * unit + last - 401);
}

TEST_P(LazyHuge, OneTouchBringsAHugePage) {
    Load load(*saved);
    load.options.bandwidth = slow;
    ASSERT_EQ(load.open(), "");
    ASSERT_EQ(load.attach({&target}), "");
    // The slow load has brought the first, and waits.
    EXPECT_TRUE(eventually([&] { return load.stats().remaining == unit + last; }));
    guest_write(target.memory() + (3 * unit + 9) * page_bytes + 1, 0x55);
    source.memory()[(3 * unit + 9) * page_bytes + 1] = std::byte{0x55};
    EXPECT_TRUE(eventually([&] { return load.stats().faults == 1; })); // counted after it
    const hs_load_stats stats = load.stats();
    EXPECT_EQ(stats.demand_device, unit);
    EXPECT_EQ(stats.neighbors, unit - 1);
    EXPECT_EQ(stats.remaining, last);
    hs_load_set_bandwidth(load.handle(), 0);
    EXPECT_EQ(load.wait(), "");
    EXPECT_EQ(target.copy(), source.copy());
}

TEST_P(LazyHuge, ThreadsThatTouchPagesAtOnceSeeTheirContent) {
    Load load(*saved);
    ASSERT_EQ(load.open(), "");
    ASSERT_EQ(load.attach({&target}), "");
    EXPECT_EQ(misread(target, source, 1000), 0);
    EXPECT_EQ(load.wait(), "");
    EXPECT_EQ(target.copy(), source.copy());
}

TEST_P(LazyHuge, ADamagedPageKeepsItsHugePageAwayUntilItIsMended) {
    const uint64_t bad = saved->pages_offset("pc.ram") + (3 * unit + 50) * page_bytes + 17;
    Load load(*saved);
    load.options.bandwidth = slow;
    ASSERT_EQ(load.open(), "");
    ASSERT_EQ(load.attach({&target}), "");
    saved->flip(bad);
    std::atomic<int> seen = -1;
    std::thread reader(
        [&] { seen = guest_read(target.memory() + (3 * unit + 20) * page_bytes + 3); });
    EXPECT_TRUE(eventually([&] { return load.failures == 1; }));
    EXPECT_EQ(seen, -1);
    hs_load_failure failure{};
    ASSERT_TRUE(hs_load_get_failure(load.handle(), &failure));
    EXPECT_EQ(failure.block_offset, (3 * unit + 50) * page_bytes);
    hs_string_free(failure.message);
    hs_string_free(failure.block);
    saved->flip(bad);
    hs_load_retry(load.handle());
    reader.join();
    EXPECT_EQ(seen, static_cast<int>(source.memory()[(3 * unit + 20) * page_bytes + 3]));
    EXPECT_TRUE(eventually([&] { return load.stats().damaged == 0; }));
    hs_load_set_bandwidth(load.handle(), 0);
    EXPECT_EQ(load.wait(), "");
    EXPECT_EQ(target.copy(), source.copy());
}

} // namespace

} // namespace hotsnap::memory
