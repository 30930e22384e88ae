// SPDX-License-Identifier: GPL-2.0-or-later
#include "save/token_bucket.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

namespace hotsnap::memory {

namespace {

constexpr uint64_t second = 1'000'000'000;

TEST(TokenBucket, NoLimitNeverWaits) {
    TokenBucket bucket(0, 0);
    bucket.spend(1ull << 40, 0);
    EXPECT_EQ(bucket.wait_ns(0), 0u);
}

TEST(TokenBucket, DebtIsPaidAtTheRate) {
    TokenBucket bucket(1000, 0);
    bucket.spend(500, 0);
    EXPECT_NEAR(static_cast<double>(bucket.wait_ns(0)), 0.5e9, 2);
    EXPECT_NEAR(static_cast<double>(bucket.wait_ns(second / 4)), 0.25e9, 2);
    EXPECT_EQ(bucket.wait_ns(second / 2 + 10), 0u);
}

TEST(TokenBucket, IdleTimeIsWorthATenthOfASecond) {
    TokenBucket bucket(1000, 0);
    bucket.spend(1100, 100 * second);
    EXPECT_NEAR(static_cast<double>(bucket.wait_ns(100 * second)), 1e9, 10);
}

TEST(TokenBucket, LiftingTheLimitEndsTheWait) {
    TokenBucket bucket(1, 0);
    bucket.spend(1000, 0);
    bucket.set_rate(0, second);
    EXPECT_EQ(bucket.wait_ns(second), 0u);
}

TEST(TokenBucket, AFasterRatePaysTheSameDebtSooner) {
    TokenBucket bucket(10, 0);
    bucket.spend(1000, 0);
    bucket.set_rate(1000, 0);
    EXPECT_NEAR(static_cast<double>(bucket.wait_ns(0)), 1e9, 2);
}

// A caller that spends and then waits as told never gets more than rate * time + burst + one chunk.
TEST(TokenBucket, TheRateIsKeptWhateverIsSpent) {
    EXPECT_TRUE(rc::check([] {
        const auto rate = *rc::gen::inRange<uint64_t>(1, 1 << 30);
        const auto chunks =
            *rc::gen::container<std::vector<uint64_t>>(rc::gen::inRange<uint64_t>(0, 4 << 20));
        TokenBucket bucket(rate, 0);
        uint64_t now = 0;
        uint64_t spent = 0;
        for (const uint64_t chunk : chunks) {
            now += bucket.wait_ns(now);
            const double allowed =
                static_cast<double>(rate) * (static_cast<double>(now) / 1e9 + 0.1) + 4;
            RC_ASSERT(static_cast<double>(spent) <= allowed * 1.000001);
            spent += chunk;
            bucket.spend(chunk, now);
            now += *rc::gen::inRange<uint64_t>(0, second / 50);
        }
    }));
}

} // namespace

} // namespace hotsnap::memory
