// SPDX-License-Identifier: GPL-2.0-or-later
#include "save/convergence.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>

namespace hotsnap::memory {

namespace {

using Verdict = Convergence::Verdict;

constexpr uint64_t second = 1'000'000'000;

// A guest that writes `writes` of its pages a second, over and over again, to a storage that takes
// `rate` pages a second. Returns the verdict.
Verdict judge(uint64_t pages, uint64_t writes, uint64_t hot, uint64_t rate, Convergence &rounds) {
    Verdict verdict = Verdict::open;
    for (uint64_t left = pages; verdict == Verdict::open;) {
        const uint64_t ns = left * second / rate + 1;
        const uint64_t written = std::min(hot, writes * ns / second);
        verdict = rounds.round(left, ns, written);
        left = written;
    }
    return verdict;
}

TEST(Convergence, ASlowWriterConverges) {
    Convergence rounds;
    EXPECT_EQ(judge(1'000'000, 10'000, 1'000'000, 100'000, rounds), Verdict::converged);
    EXPECT_LE(rounds.rounds(), 5u);
    EXPECT_LE(rounds.written(), 100'000 * Convergence::moment_ns / second);
}

TEST(Convergence, AGuestThatDoesNotWriteNeedsOneRound) {
    Convergence rounds;
    EXPECT_EQ(rounds.round(1000, second, 0), Verdict::converged);
    EXPECT_EQ(rounds.round(0, 1, 1'000'000), Verdict::converged); // it stays
    EXPECT_EQ(rounds.rounds(), 1u);
}

TEST(Convergence, AFasterWriterIsHopelessSoon) {
    Convergence rounds;
    EXPECT_EQ(judge(1'000'000, 300'000, 24'000, 10'000, rounds), Verdict::hopeless);
    EXPECT_LE(rounds.rounds(), 4u);
    EXPECT_EQ(rounds.written(), 24'000u);
}

// A set of pages that is written all the time, and fits into a moment, is no obstacle.
TEST(Convergence, ASmallWorkingSetConverges) {
    Convergence rounds;
    EXPECT_EQ(judge(1'000'000, 10'000'000, 1500, 100'000, rounds), Verdict::converged);
    EXPECT_EQ(rounds.rounds(), 1u);
}

TEST(Convergence, NoDataMeansNoRate) {
    Convergence rounds;
    EXPECT_EQ(rounds.round(0, second, Convergence::few_pages + 1), Verdict::open);
    EXPECT_EQ(rounds.round(0, 0, Convergence::few_pages), Verdict::converged);
}

// Whatever the guest does, there is a verdict after a bounded number of rounds; and it is not
// "converged" unless what is left can be copied in a moment.
TEST(Convergence, AlwaysDecides) {
    EXPECT_TRUE(rc::check([] {
        Convergence rounds;
        uint64_t copied = 0, ns = 0;
        for (unsigned round = 1;; round++) {
            const auto some = *rc::gen::inRange<uint64_t>(0, 1 << 20);
            const auto time = *rc::gen::inRange<uint64_t>(0, 10 * second);
            const auto written = *rc::gen::inRange<uint64_t>(0, 1 << 20);
            copied += some;
            ns += time;
            const Verdict verdict = rounds.round(some, time, written);
            RC_ASSERT(round <= Convergence::most_rounds);
            const bool little =
                written <= Convergence::few_pages ||
                (ns > 0 && static_cast<double>(written) * static_cast<double>(ns) <=
                               1.0001 * static_cast<double>(copied) * Convergence::moment_ns);
            RC_ASSERT(verdict != Verdict::converged || little);
            if (verdict != Verdict::open) {
                break;
            }
        }
    }));
}

} // namespace

} // namespace hotsnap::memory
