// SPDX-License-Identifier: GPL-2.0-or-later
//
// The working set through a snapshot and two loads of it.
#include "access/access_file.h"
#include "lazy_case.h"
#include "snapshot_case.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>

namespace hotsnap::memory {

namespace {

using test::eventually;
using test::guest_read;
using test::guest_write;
using test::Kind;
using test::Load;
using test::Region;
using test::SavedImage;

constexpr uint64_t MiB = 1 << 20;
constexpr uint64_t slow = 1; // byte a second

std::set<uint64_t> pages_of(const AccessMap &map) {
    std::set<uint64_t> pages;
    for (const Access &access : map.accesses()) {
        pages.insert(access.page);
    }
    return pages;
}

class WorkingSet : public testing::TestWithParam<Kind> {
  protected:
    Region source{"pc.ram", GetParam(), 8 * MiB};
    Region target{"pc.ram", GetParam(), 8 * MiB};
    std::unique_ptr<SavedImage> saved;

    void SetUp() override {
        source.fill(0, 2048);
        saved = std::make_unique<SavedImage>(std::vector<const Region *>{&source});
        target.fill(0, 2048);
    }
    std::string path() const { return saved->folder.path("access"); }
    uint64_t image_page(uint64_t page) const {
        return saved->pages_offset("pc.ram") / page_bytes + page;
    }
    AccessMap known() const {
        return read_access_file(path(), saved->sums_xxh3, saved->size() / page_bytes);
    }
    // Loads the image while a guest touches these pages; returns the faults that it met.
    // A fault is counted after the page is there, so the count is waited for: there are to be
    // `most`.
    uint64_t restore(const std::vector<uint64_t> &touched, uint64_t most, hs_load_stats &stats) {
        Load load(*saved);
        const std::string access = path();
        load.options.access_path = access.c_str();
        load.options.bandwidth = slow;
        EXPECT_EQ(load.open(), "");
        EXPECT_EQ(load.attach({&target}), "");
        EXPECT_TRUE(eventually([&] { return hs_load_ready(load.handle()); }));
        EXPECT_TRUE(eventually([&] { return load.stats().prefetched == load.stats().planned; }));
        hs_load_running(load.handle());
        const uint64_t before = load.stats().faults;
        for (const uint64_t page : touched) {
            EXPECT_EQ(guest_read(target.memory() + page * page_bytes),
                      static_cast<uint8_t>(source.memory()[page * page_bytes]));
        }
        EXPECT_TRUE(eventually([&] { return load.stats().faults - before >= most; }));
        const uint64_t faults = load.stats().faults - before;
        hs_load_set_bandwidth(load.handle(), 0);
        EXPECT_EQ(load.wait(), "");
        EXPECT_EQ(target.copy(), source.copy());
        stats = load.stats();
        return faults;
    }
};

INSTANTIATE_TEST_SUITE_P(Kinds, WorkingSet, testing::Values(Kind::anonymous, Kind::memfd));

TEST_P(WorkingSet, IsLearnedByOneRestoreAndPrefetchedByTheNext) {
    // Beyond what the slow background load brings at once, and not neighbors of one another.
    const std::vector<uint64_t> touched = {900, 1000, 1300, 1700, 2047};
    hs_load_stats stats;
    EXPECT_EQ(restore(touched, touched.size(), stats), touched.size());
    EXPECT_EQ(stats.planned, 0u);
    const auto learned = pages_of(known());
    for (const uint64_t page : touched) {
        EXPECT_TRUE(learned.contains(image_page(page))) << page;
    }
    EXPECT_EQ(restore(touched, 0, stats), 0u);
    EXPECT_EQ(stats.planned, learned.size());
    EXPECT_EQ(stats.prefetched, stats.planned);
    EXPECT_EQ(stats.total, stats.background + stats.demand_guest + stats.demand_device +
                               stats.untrapped); // each once
    // What was prefetched is not forgotten, though nobody waited for it this time.
    const std::vector<uint64_t> more = {1500};
    EXPECT_EQ(restore(more, 1, stats), 1u);
    auto all = learned;
    all.insert(image_page(1500));
    EXPECT_EQ(pages_of(known()), all);
}

TEST_P(WorkingSet, ThatIsOfAnotherImageChangesNothing) {
    ASSERT_TRUE(write_access_file(path(), AccessMap({{image_page(900), 0}}), saved->sums_xxh3 + 1));
    hs_load_stats stats;
    EXPECT_EQ(restore({900}, 1, stats), 1u);
    EXPECT_EQ(stats.planned, 0u);
}

TEST_P(WorkingSet, MayNamePagesThatAreNotThere) {
    const uint64_t end = saved->size() / page_bytes;
    ASSERT_TRUE(
        write_access_file(path(), AccessMap({{0, 0}, {1, 0}, {end - 1, 0}}), saved->sums_xxh3));
    hs_load_stats stats;
    EXPECT_EQ(restore({900}, 1, stats), 1u);
    EXPECT_EQ(stats.planned, 3u);
}

TEST_P(WorkingSet, APageOfItThatIsDamagedIsNotSeen) {
    ASSERT_TRUE(write_access_file(path(), AccessMap({{image_page(900), 0}}), saved->sums_xxh3));
    const uint64_t bad = saved->pages_offset("pc.ram") + 900 * page_bytes + 17;
    Load load(*saved);
    const std::string access = path();
    load.options.access_path = access.c_str();
    load.options.bandwidth = slow;
    ASSERT_EQ(load.open(), "");
    saved->flip(bad);
    ASSERT_EQ(load.attach({&target}), "");
    EXPECT_TRUE(eventually([&] { return load.failures == 1; }));
    EXPECT_TRUE(hs_load_ready(load.handle())); // the caller asks for failures
    saved->flip(bad);
    hs_load_retry(load.handle());
    EXPECT_TRUE(eventually([&] { return load.stats().damaged == 0; }));
    hs_load_set_bandwidth(load.handle(), 0);
    EXPECT_EQ(load.wait(), "");
    EXPECT_EQ(target.copy(), source.copy());
}

TEST_P(WorkingSet, BeginsWithWhatWasWrittenAfterTheCut) {
    test::Snapshot snapshot({&source});
    const std::string access = snapshot.folder.path("access");
    snapshot.options.access_path = access.c_str();
    snapshot.options.tuning.bandwidth = slow;
    ASSERT_EQ(snapshot.create(), "");
    ASSERT_EQ(snapshot.arm(), "");
    guest_write(source.memory() + 600 * page_bytes, 1); // before the cut: not of interest
    ASSERT_EQ(snapshot.cut(), "");
    ASSERT_EQ(snapshot.start(), "");
    for (const uint64_t page : {1000, 1400, 2000}) {
        guest_write(source.memory() + page * page_bytes, 2);
    }
    hs_snapshot_set_bandwidth(snapshot.handle(), 0);
    ASSERT_EQ(snapshot.wait(), "");
    const uint64_t first = snapshot.load().blocks.at("pc.ram").pages_offset / page_bytes;
    const uint64_t pages = std::filesystem::file_size(snapshot.image) / page_bytes;
    const AccessMap map = read_access_file(access, snapshot.stats().sums_xxh3, pages);
    EXPECT_EQ(pages_of(map), (std::set<uint64_t>{first + 1000, first + 1400, first + 2000}));
}

} // namespace

} // namespace hotsnap::memory
