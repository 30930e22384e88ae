// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/page_ledger.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <array>
#include <bit>
#include <chrono>
#include <thread>
#include <vector>

namespace hotsnap::memory {

namespace {

void save_all(PageLedger &ledger, uint64_t first, uint32_t count, Manner manner) {
    const GroupMask mask = ledger.claim(first, count);
    ledger.save(first, mask, 0, 0, manner);
}

TEST(PageLedger, NewLedgerHasNothingSaved) {
    const PageLedger ledger(100);
    EXPECT_TRUE(ledger.unsaved(99));
    EXPECT_EQ(ledger.saved_pages(), 0u);
    ASSERT_TRUE(ledger.disproof());
    EXPECT_NE(ledger.disproof()->find("page 0 of 100 was not saved"), std::string::npos);
}

TEST(PageLedger, ClaimIsExclusive) {
    PageLedger ledger(32);
    EXPECT_EQ(ledger.claim(4, 4), 0x000f);
    EXPECT_EQ(ledger.claim(0, 16), 0xff0f);
    EXPECT_EQ(ledger.claim(0, 16), 0);
    EXPECT_FALSE(ledger.unsaved(4));
    EXPECT_FALSE(ledger.saved(4));
}

TEST(PageLedger, DisproofNamesAClaimThatWasNotSaved) {
    PageLedger ledger(2);
    save_all(ledger, 0, 1, Manner::background);
    ledger.claim(1, 1);
    ASSERT_TRUE(ledger.disproof());
    EXPECT_NE(ledger.disproof()->find("page 1 of 2 was claimed but not saved"), std::string::npos);
}

TEST(PageLedger, DisproofNoticesAPageSavedTwice) {
    PageLedger ledger(16);
    save_all(ledger, 0, 16, Manner::background);
    EXPECT_FALSE(ledger.disproof());
    ledger.save(3, 1, 0, 0, Manner::guest_write);
    EXPECT_TRUE(ledger.disproof());
}

TEST(PageLedger, DisproofNoticesASaveWithoutAClaim) {
    PageLedger ledger(1);
    ledger.save(0, 1, 0, 0, Manner::background);
    ASSERT_TRUE(ledger.disproof());
    EXPECT_NE(ledger.disproof()->find("without a claim"), std::string::npos);
}

TEST(PageLedger, ZeroPagesHaveNoData) {
    PageLedger ledger(16);
    const GroupMask mask = ledger.claim(0, 16);
    ledger.save(0, mask, 0x00f0, 0, Manner::background);
    for (uint64_t page = 0; page < 16; page++) {
        EXPECT_EQ(ledger.has_data(page), page < 4 || page >= 8) << page;
    }
    EXPECT_EQ(ledger.counts().zero, 4u);
}

TEST(PageLedger, CededPagesAreForTheKernelsCopies) {
    PageLedger ledger(16);
    EXPECT_EQ(ledger.claim(0, 16), 0xffff);
    ledger.cede(0, 0x0030);
    EXPECT_FALSE(ledger.unsaved(4));
    EXPECT_EQ(ledger.claim(0, 16), 0);
    ledger.save(0, 0xffcf, 0, 0, Manner::guest_write);
    ASSERT_TRUE(ledger.disproof());
    EXPECT_NE(ledger.disproof()->find("page 4 of 16 was left to KVM"), std::string::npos);
    EXPECT_TRUE(ledger.claim_kernels(4));
    EXPECT_TRUE(ledger.claim_kernels(5));
    ledger.save(4, 3, 0, 0, Manner::kvm_write);
    EXPECT_FALSE(ledger.disproof());
    EXPECT_FALSE(ledger.claim_kernels(3));
    EXPECT_EQ(ledger.counts().by_manner[static_cast<size_t>(Manner::kvm_write)], 2u);
}

TEST(PageLedger, KernelsCopyWaitsForAClaimInVain) {
    PageLedger ledger(1);
    ASSERT_EQ(ledger.claim(0, 1), 1);
    std::thread ring([&] {
        EXPECT_TRUE(ledger.claim_kernels(0));
        ledger.save(0, 1, 0, 0, Manner::kvm_write);
    });
    ledger.cede(0, 1);
    ring.join();
    EXPECT_FALSE(ledger.disproof());
}

TEST(PageLedger, FirstPageStandsForAHugePage) {
    PageLedger ledger(1024);
    ASSERT_TRUE(ledger.claim_unit(512, 512));
    EXPECT_FALSE(ledger.claim_unit(512, 512));
    for (uint64_t first = 1024; first > 512;) {
        EXPECT_FALSE(ledger.saved(512));
        first -= group_pages;
        ledger.save(first, 0xffff, 0, 0, Manner::guest_write);
    }
    EXPECT_TRUE(ledger.saved(512));
    EXPECT_TRUE(ledger.unsaved(0));
    EXPECT_EQ(ledger.saved_pages(), 512u);
}

TEST(PageLedger, ReopenedPagesAreSavedAgain) {
    PageLedger ledger(16);
    const GroupMask all = ledger.claim(0, 16);
    ledger.save(0, all, 0x000f, 0x0003, Manner::precopy);
    ledger.reopen(2, 4); // 2 and 3 are zero, 4 and 5 are not
    EXPECT_EQ(ledger.saved_pages(), 12u);
    EXPECT_EQ(ledger.counts().zero, 2u);
    EXPECT_EQ(ledger.counts().neighbors, 2u);
    EXPECT_EQ(ledger.counts().by_manner[static_cast<size_t>(Manner::precopy)], 12u);
    ASSERT_TRUE(ledger.disproof());
    EXPECT_NE(ledger.disproof()->find("page 2 of 16 was not saved"), std::string::npos);
    EXPECT_TRUE(ledger.unsaved(4));
    EXPECT_FALSE(ledger.has_data(4));
    EXPECT_EQ(ledger.claim(0, 16), 0x003c);
    EXPECT_FALSE(ledger.unsaved(4));
    EXPECT_NE(ledger.disproof()->find("page 2 of 16 was claimed but not saved"), std::string::npos);
    EXPECT_EQ(ledger.replaced(0, 0xffff), 0x0030);
    ledger.save(0, 0x003c, 0x0030, 0, Manner::guest_write); // now these are zero
    EXPECT_FALSE(ledger.disproof());
    ledger.reopen(0, 16);
    EXPECT_EQ(ledger.replaced(0, 0xffff), 0xffcc); // zeros are in the place of 4 and 5
    EXPECT_EQ(ledger.saved_pages(), 0u);
    EXPECT_EQ(ledger.counts(), PageLedger::Counts{});
}

TEST(PageLedger, ReopeningWaitsForAClaim) {
    PageLedger ledger(2);
    ASSERT_EQ(ledger.claim(0, 2), 3);
    std::thread other([&] { ledger.reopen(0, 2); });
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    ledger.save(0, 3, 0, 0, Manner::precopy);
    other.join();
    EXPECT_TRUE(ledger.unsaved(0));
    EXPECT_TRUE(ledger.unsaved(1));
    EXPECT_EQ(ledger.replaced(0, 3), 3);
}

TEST(PageLedger, AHugePageIsReopenedAsAWhole) {
    PageLedger ledger(1024);
    for (const bool zero : {false, true}) {
        ASSERT_TRUE(ledger.claim_unit(512, 512));
        for (uint64_t first = 1024; first > 512;) {
            first -= group_pages;
            EXPECT_EQ(ledger.replaced(first, 0xffff), zero ? 0xffff : 0);
            ledger.save(first, 0xffff, zero ? 0xffff : 0, 0, Manner::precopy);
        }
        ledger.reopen(512, 512);
        EXPECT_TRUE(ledger.unsaved(512));
        EXPECT_EQ(ledger.saved_pages(), 0u);
    }
}

// Against a model: whatever is claimed, saved and reopened, in whatever order, the books balance,
// and a page is known to have bytes in the image exactly if it was not zero when it was saved last.
TEST(PageLedger, ReopeningKeepsTheBooks) {
    EXPECT_TRUE(rc::check([] {
        constexpr uint64_t pages = 3 * group_pages;
        struct Page {
            bool saved = false, zero = false, written = false;
        };
        PageLedger ledger(pages);
        std::array<Page, pages> model;
        const auto steps = *rc::gen::container<std::vector<std::tuple<uint8_t, uint16_t, uint8_t>>>(
            rc::gen::arbitrary<std::tuple<uint8_t, uint16_t, uint8_t>>());
        for (const auto &[where, zero, how] : steps) {
            const uint64_t first = where % 3 * group_pages;
            if (how % 3 == 0) {
                const uint64_t count = 1 + how % (pages - first);
                ledger.reopen(first, count);
                for (uint64_t i = first; i < first + count; i++) {
                    model[i].written = model[i].saved ? !model[i].zero : model[i].written;
                    model[i].saved = false;
                }
                continue;
            }
            const GroupMask mask = ledger.claim(first, 1 + where % group_pages);
            const GroupMask replaced = ledger.replaced(first, mask);
            for (uint64_t i = 0; i < group_pages; i++) {
                Page &page = model[first + i];
                const bool asked = i < 1 + where % group_pages;
                RC_ASSERT((mask >> i & 1) == (asked && !page.saved));
                RC_ASSERT((replaced >> i & 1) == (asked && !page.saved && page.written));
                if (mask >> i & 1) {
                    page = {true, (zero >> i & 1) != 0, false};
                }
            }
            ledger.save(first, mask, zero, 0, static_cast<Manner>(how % manner_count));
        }
        uint64_t saved = 0, zeros = 0;
        for (uint64_t i = 0; i < pages; i++) {
            RC_ASSERT(ledger.saved(i) == model[i].saved);
            RC_ASSERT(ledger.unsaved(i) != model[i].saved);
            RC_ASSERT(ledger.has_data(i) == (model[i].saved && !model[i].zero));
            saved += model[i].saved;
            zeros += model[i].saved && model[i].zero;
        }
        RC_ASSERT(ledger.saved_pages() == saved);
        RC_ASSERT(ledger.counts().zero == zeros);
        RC_ASSERT(ledger.disproof().has_value() == (saved != pages));
    }));
}

// Whatever groups any number of threads try, each page is claimed by one of them, and the books
// balance.
TEST(PageLedger, EachPageIsSavedOnceByWhoeverComesFirst) {
    EXPECT_TRUE(rc::check([] {
        const auto groups = *rc::gen::inRange<uint64_t>(1, 40);
        const auto threads = *rc::gen::inRange(1, 5);
        const uint64_t pages = groups * group_pages - *rc::gen::inRange<uint64_t>(0, group_pages);
        PageLedger ledger(pages);
        std::vector<std::atomic<int>> savers(pages);
        std::vector<std::thread> workers;
        for (int t = 0; t < threads; t++) {
            workers.emplace_back([&, t] {
                for (uint64_t i = 0; i < groups; i++) {
                    const uint64_t group = t % 2 == 0 ? i : groups - 1 - i;
                    const uint64_t first = group * group_pages;
                    const auto count =
                        static_cast<uint32_t>(std::min<uint64_t>(group_pages, pages - first));
                    const GroupMask mask = ledger.claim(first, count);
                    for (uint32_t j = 0; j < count; j++) {
                        savers[first + j] += mask >> j & 1;
                    }
                    ledger.save(first, mask, mask & 0x5555, mask & 0x0101,
                                static_cast<Manner>(t % 3));
                    ledger.wait_saved(first);
                }
            });
        }
        for (std::thread &worker : workers) {
            worker.join();
        }
        for (const auto &count : savers) {
            RC_ASSERT(count == 1);
        }
        RC_ASSERT(!ledger.disproof());
        RC_ASSERT(ledger.saved_pages() == pages);
        const PageLedger::Counts counts = ledger.counts();
        uint64_t sum = 0;
        for (const uint64_t n : counts.by_manner) {
            sum += n;
        }
        RC_ASSERT(sum == pages);
        RC_ASSERT(counts.zero == (pages + 1) / 2);
    }));
}

} // namespace

} // namespace hotsnap::memory
