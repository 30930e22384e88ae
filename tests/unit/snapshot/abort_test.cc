// SPDX-License-Identifier: GPL-2.0-or-later
//
// An abort in any phase leaves the memory writable and unchanged, and no file.
#include "snapshot_case.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace hotsnap::memory::test {

namespace {

constexpr uint64_t MiB = 1 << 20;
constexpr uint64_t size = 32 * MiB;

enum class When { created, armed, cut, faulted, copying };

class Abort : public testing::TestWithParam<When> {};

INSTANTIATE_TEST_SUITE_P(Phases, Abort,
                         testing::Values(When::created, When::armed, When::cut, When::faulted,
                                         When::copying));

TEST_P(Abort, LeavesTheVmAsItWas) {
    Region ram("pc.ram", Kind::anonymous, size);
    ram.fill(0, size / 4096);
    Snapshot snapshot({&ram});
    snapshot.options.tuning.bandwidth = 1; // so that copying is still under way
    const When when = GetParam();
    ASSERT_EQ(snapshot.create(), "");
    if (when >= When::armed) {
        ASSERT_EQ(snapshot.arm(), "");
    }
    if (when >= When::cut) {
        ASSERT_EQ(snapshot.cut(), "");
    }
    auto expected = ram.copy();
    if (when == When::faulted) {
        for (uint64_t at = 0; at < size; at += size / 64) {
            guest_write(ram.memory() + at, 7);
            expected[at] = std::byte{7};
        }
        EXPECT_GT(snapshot.stats().pages.dma_write, 0u);
    }
    if (when == When::copying) {
        ASSERT_EQ(snapshot.start(), "");
        while (snapshot.stats().pages.background == 0) {
            std::this_thread::yield();
        }
    }
    std::thread one([&] { hs_snapshot_abort(snapshot.handle(), "no more"); });
    std::thread two([&] { hs_snapshot_abort(snapshot.handle(), "no more"); });
    one.join();
    two.join();
    EXPECT_EQ(snapshot.folder.files(), 0u);
    EXPECT_TRUE(std::ranges::equal(expected, ram.copy()));
    std::fill(ram.memory(), ram.memory() + size, std::byte{1}); // nothing stops this
    EXPECT_EQ(snapshot.arm(), "no more");
    EXPECT_EQ(snapshot.cut(), "no more");
    EXPECT_EQ(snapshot.start(), "no more");
    if (when == When::copying) {
        EXPECT_EQ(snapshot.wait(), "no more");
    }
    snapshot.free();
    EXPECT_EQ(snapshot.finished_calls(), when == When::copying ? 1 : 0);
}

TEST_P(Abort, FreeingAnUnfinishedSnapshotIsAnAbort) {
    Region ram("pc.ram", Kind::memfd, size);
    ram.fill(0, size / 4096);
    Snapshot snapshot({&ram});
    snapshot.options.tuning.bandwidth = 1;
    Writers writers({&ram}, 2, size / 2); // pages they write to are copied at once
    const When when = GetParam();
    ASSERT_EQ(snapshot.create(), "");
    if (when >= When::armed) {
        ASSERT_EQ(snapshot.arm(), "");
    }
    if (when >= When::cut) {
        writers.pause();
        ASSERT_EQ(snapshot.cut(), "");
        writers.resume();
    }
    if (when == When::copying) {
        ASSERT_EQ(snapshot.start(), "");
    }
    snapshot.free();
    EXPECT_EQ(snapshot.folder.files(), 0u);
    writers.wait_writes(100'000); // every writer still runs
}

TEST(Abort, AfterTheEndChangesNothing) {
    Region ram("pc.ram", Kind::anonymous, MiB);
    ram.fill(0, 10);
    Snapshot snapshot({&ram});
    ASSERT_EQ(snapshot.create(), "");
    ASSERT_EQ(snapshot.arm(), "");
    ASSERT_EQ(snapshot.cut(), "");
    ASSERT_EQ(snapshot.start(), "");
    ASSERT_EQ(snapshot.wait(), "");
    hs_snapshot_abort(snapshot.handle(), "too late");
    snapshot.free();
    EXPECT_EQ(snapshot.folder.files(), 2u);
    EXPECT_EQ(snapshot.finished_calls(), 1);
    EXPECT_EQ(snapshot.load().blocks.at("pc.ram").bits_set, 10u);
}

// An abort at any moment, also between the last page and the end, has one outcome, and the files
// fit it.
TEST(Abort, RacesWithTheEnd) {
    Region ram("pc.ram", Kind::anonymous, 4 * MiB);
    ram.fill(0, 1000);
    for (int round = 0; round < 40; round++) {
        Snapshot snapshot({&ram});
        ASSERT_EQ(snapshot.create(), "");
        ASSERT_EQ(snapshot.arm(), "");
        ASSERT_EQ(snapshot.cut(), "");
        ASSERT_EQ(snapshot.start(), "");
        std::this_thread::sleep_for(std::chrono::microseconds(round * 100));
        hs_snapshot_abort(snapshot.handle(), "stop");
        const std::string error = snapshot.wait();
        EXPECT_TRUE(error.empty() || error == "stop") << error;
        EXPECT_EQ(snapshot.folder.files(), error.empty() ? 2u : 0u);
        snapshot.free();
        EXPECT_EQ(snapshot.finished_calls(), 1);
    }
}

TEST(Order, CallsOutOfOrderAreRefusedAndHarmless) {
    Region ram("pc.ram", Kind::anonymous, MiB);
    Snapshot snapshot({&ram});
    ASSERT_EQ(snapshot.create(), "");
    EXPECT_NE(snapshot.cut().find("out of order"), std::string::npos);
    EXPECT_NE(snapshot.start().find("out of order"), std::string::npos);
    EXPECT_NE(snapshot.dump("x").find("out of order"), std::string::npos);
    ASSERT_EQ(snapshot.arm(), "");
    EXPECT_NE(snapshot.arm().find("out of order"), std::string::npos);
    ASSERT_EQ(snapshot.cut(), "");
    EXPECT_NE(snapshot.cut().find("out of order"), std::string::npos);
    ASSERT_EQ(snapshot.start(), "");
    EXPECT_EQ(snapshot.wait(), "");
}

TEST(Order, OneAfterTheOther) {
    Region ram("pc.ram", Kind::anonymous, 8 * MiB);
    Writers writers({&ram}, 1, 8 * MiB);
    for (int round = 0; round < 5; round++) {
        Snapshot snapshot({&ram});
        ASSERT_EQ(snapshot.create(), "");
        ASSERT_EQ(snapshot.arm(), "");
        writers.pause();
        ASSERT_EQ(snapshot.cut(), "");
        const auto expected = ram.copy();
        writers.resume();
        ASSERT_EQ(snapshot.start(), "");
        ASSERT_EQ(snapshot.wait(), "");
        EXPECT_TRUE(std::ranges::equal(expected, snapshot.load().blocks.at("pc.ram").memory));
    }
}

} // namespace

} // namespace hotsnap::memory::test
