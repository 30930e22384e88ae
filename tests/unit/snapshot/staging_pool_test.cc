// SPDX-License-Identifier: GPL-2.0-or-later
#include "image/staging_pool.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <set>
#include <thread>

namespace hotsnap::memory {

namespace {

using User = StagingPool::User;

TEST(StagingPool, SlotsAreDistinctAndFitForDirectIo) {
    StagingPool pool(8, 2);
    std::array<Slot, 8> slots;
    ASSERT_TRUE(pool.try_acquire(User::fault, slots));
    EXPECT_EQ(std::set(slots.begin(), slots.end()).size(), 8u);
    std::set<size_t> indexes;
    for (const Slot slot : slots) {
        EXPECT_EQ(reinterpret_cast<uintptr_t>(slot) % 4096, 0u);
        indexes.insert(pool.index_of(slot));
    }
    EXPECT_EQ(*indexes.rbegin(), 7u);
    EXPECT_EQ(indexes.size(), 8u);
    pool.release(slots);
}

TEST(StagingPool, BackgroundLeavesTheReserve) {
    StagingPool pool(8, 3);
    std::array<Slot, 1> one;
    for (int i = 0; i < 5; i++) {
        EXPECT_TRUE(pool.try_acquire(User::background, one)) << i;
    }
    EXPECT_FALSE(pool.try_acquire(User::background, one));
    for (int i = 0; i < 3; i++) {
        EXPECT_TRUE(pool.try_acquire(User::fault, one)) << i;
    }
    EXPECT_FALSE(pool.try_acquire(User::fault, one));
}

TEST(StagingPool, AllOrNone) {
    StagingPool pool(4, 0);
    std::array<Slot, 3> three;
    std::array<Slot, 2> two;
    ASSERT_TRUE(pool.try_acquire(User::fault, three));
    EXPECT_FALSE(pool.try_acquire(User::fault, two));
    std::array<Slot, 1> one;
    EXPECT_TRUE(pool.try_acquire(User::fault, one));
}

TEST(StagingPool, ExhaustedFaultWaitsForAReleaseAndNoLonger) {
    StagingPool pool(2, 1);
    std::array<Slot, 2> all;
    ASSERT_TRUE(pool.try_acquire(User::fault, all));
    std::atomic<bool> got = false;
    std::thread waiter([&] {
        std::array<Slot, 1> slot;
        EXPECT_TRUE(pool.acquire(User::fault, slot));
        got = true;
        pool.release(slot);
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_FALSE(got);
    pool.release({all.data(), 1});
    waiter.join();
    EXPECT_TRUE(got);
}

TEST(StagingPool, CloseEndsAllWaits) {
    StagingPool pool(2, 1);
    std::array<Slot, 2> all;
    ASSERT_TRUE(pool.try_acquire(User::fault, all));
    std::thread fault([&] {
        std::array<Slot, 1> slot;
        EXPECT_FALSE(pool.acquire(User::fault, slot));
    });
    std::thread background([&] {
        std::array<Slot, 1> slot;
        EXPECT_FALSE(pool.acquire(User::background, slot));
    });
    pool.close();
    fault.join();
    background.join();
    pool.release(all);
    EXPECT_FALSE(pool.try_acquire(User::fault, {all.data(), 1}));
}

} // namespace

} // namespace hotsnap::memory
