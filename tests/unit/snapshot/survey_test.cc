// SPDX-License-Identifier: GPL-2.0-or-later
//
// The survey's estimate of what is left, against the truth.
#include "save/survey.h"

#include "guest.h"
#include "guest/guest_memory.h"

#include <gtest/gtest.h>

namespace hotsnap::memory {

namespace {

using test::block_of;
using test::Kind;
using test::Region;

constexpr uint64_t MiB = 1 << 20;

void touch(const Region &region, uint64_t first, uint64_t count) {
    for (uint64_t page = first; page < first + count; page++) {
        test::guest_write(region.memory() + page * page_bytes, 0);
    }
}

void look_at_all(Survey &survey) {
    while (!survey.complete()) {
        survey.look();
    }
}

void save(PageLedger &ledger, uint64_t first, uint64_t count) {
    for (; count > 0; first++, count--) {
        ledger.claim(first, 1);
        ledger.save(first, 1, 0, 0, Manner::guest_write);
    }
}

class Surveyed : public testing::TestWithParam<Kind> {};

INSTANTIATE_TEST_SUITE_P(Kinds, Surveyed,
                         testing::Values(Kind::anonymous, Kind::memfd, Kind::private_memfd));

// Pages: a block of no whole number of words before; then data, zero, absent, and both by turns.
TEST_P(Surveyed, TellsDataFromZeroAndAbsent) {
    Region rom("pc.rom", Kind::anonymous, 77 * page_bytes);
    Region ram("pc.ram", GetParam(), 32 * MiB);
    rom.fill(0, 77);
    ram.fill(0, 2000);
    touch(ram, 2000, 1000);
    for (uint64_t page = 4000; page < 6000; page += 2) {
        touch(ram, page, 1);
        ram.fill(page + 1, 1);
    }
    // A huge mapping of anonymous memory has no absent pages in it.
    const uint64_t populated = ram.populated();
    const auto present = static_cast<double>(populated / page_bytes);

    const GuestMemory memory({block_of(rom), block_of(ram)});
    PageLedger ledger(memory.pages());
    const PageReader reader(memory, std::nullopt);
    Survey survey(memory, ledger, reader);
    EXPECT_EQ(survey.left(0).data, static_cast<double>(memory.pages())); // nothing is known
    look_at_all(survey);
    PagesLeft left = survey.left(0);
    EXPECT_EQ(left.present(), present + 77);
    EXPECT_NEAR(left.data, 3077, 200);
    EXPECT_EQ(left.absent + left.present(), static_cast<double>(memory.pages()));

    // What is saved is not left, by whomever.
    save(ledger, 77, 2000);
    const double third = survey.left(0).data;
    EXPECT_LT(third, left.data);
    survey.passed({77, 77, 77});
    EXPECT_NEAR(survey.left(0).data, third - 77, 0.01);
    save(ledger, 0, 77);

    // Counted anew: exact again.
    Survey again(memory, ledger, reader);
    look_at_all(again);
    left = again.left(0);
    EXPECT_EQ(left.present(), present - 2000);
    EXPECT_NEAR(left.data, 1000, 150);
    if (GetParam() != Kind::anonymous) {
        EXPECT_EQ(again.present(77 + 1990, 16), 6u);
        EXPECT_EQ(again.present(77 + 2990, 16), 10u);
        EXPECT_EQ(ram.populated(), populated); // looking gives no memory
    }
}

TEST(Survey, HugePagesCountAsData) {
    Region ram("pc.ram", Kind::huge_memfd, 8 * MiB);
    if (!ram.usable()) {
        GTEST_SKIP() << ram.why();
    }
    ram.fill(0, 512);
    const GuestMemory memory({block_of(ram)});
    const PageLedger ledger(memory.pages());
    const PageReader reader(memory, std::nullopt);
    Survey survey(memory, ledger, reader);
    look_at_all(survey);
    EXPECT_EQ(survey.left(0).data, 2048);
    EXPECT_EQ(ram.populated(), 2 * MiB);
}

} // namespace

} // namespace hotsnap::memory
