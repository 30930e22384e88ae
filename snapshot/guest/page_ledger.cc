// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/page_ledger.h"

#include "os/thread.h"

#include <bit>

namespace hotsnap::memory {

PageLedger::PageLedger(uint64_t pages)
    : pages_(pages), states_(std::make_unique<std::atomic<uint8_t>[]>(pages)) {}

GroupMask PageLedger::claim(uint64_t first, uint32_t count) {
    unsigned mask = 0;
    for (uint32_t i = 0; i < count; i++) {
        std::atomic<uint8_t> &page = states_[first + i];
        uint8_t before = page.load(std::memory_order_relaxed);
        if ((before & ~written_bit) == unsaved_state &&
            page.compare_exchange_strong(before, before | claimed_state, std::memory_order_acquire,
                                         std::memory_order_relaxed)) {
            mask |= 1u << i;
        }
    }
    return static_cast<GroupMask>(mask);
}

bool PageLedger::claim_unit(uint64_t first, uint64_t count) {
    if (claim(first, 1) == 0) {
        return false;
    }
    for (uint64_t i = 1; i < count; i++) {
        std::atomic<uint8_t> &page = states_[first + i]; // nobody else's
        page.store((page.load(std::memory_order_relaxed) & written_bit) | claimed_state,
                   std::memory_order_relaxed);
    }
    return true;
}

void PageLedger::reopen(uint64_t first, uint64_t count) {
    for (uint64_t page = first + count; page-- > first;) {
        uint8_t state = states_[page].load(std::memory_order_acquire);
        for (int spins = 0; (state & ~written_bit) != unsaved_state;) {
            if ((state & saved_bit) == 0) { // claimed
                pause_in_spin(spins++);
                state = states_[page].load(std::memory_order_acquire);
                continue;
            }
            const uint8_t after = (state & zero_bit) != 0 ? unsaved_state : written_bit;
            if (states_[page].compare_exchange_weak(state, after, std::memory_order_acq_rel,
                                                    std::memory_order_acquire)) {
                zero_.fetch_sub((state & zero_bit) != 0, std::memory_order_relaxed);
                neighbors_.fetch_sub((state & neighbor_bit) != 0, std::memory_order_relaxed);
                by_manner_[state & manner_bits].fetch_sub(1, std::memory_order_relaxed);
                saved_.fetch_sub(1, std::memory_order_release);
                break;
            }
        }
    }
}

GroupMask PageLedger::replaced(uint64_t first, GroupMask mask) const {
    unsigned found = 0;
    for (unsigned left = mask; left != 0; left &= left - 1) {
        const auto i = static_cast<unsigned>(std::countr_zero(left));
        found |= replaced(first + i) ? 1u << i : 0u;
    }
    return static_cast<GroupMask>(found);
}

void PageLedger::cede(uint64_t first, GroupMask mask) {
    for (unsigned left = mask; left != 0; left &= left - 1) {
        // Release: the claimer's reads of the page are over.
        states_[first + static_cast<unsigned>(std::countr_zero(left))].store(
            ceded_state, std::memory_order_release);
    }
}

bool PageLedger::claim_kernels(uint64_t page) {
    for (int spins = 0;; spins++) {
        uint8_t state = states_[page].load(std::memory_order_relaxed);
        if ((state & saved_bit) != 0) {
            return false;
        }
        if (state != claimed_state &&
            states_[page].compare_exchange_weak(state, claimed_state, std::memory_order_acquire,
                                                std::memory_order_relaxed)) {
            return true;
        }
        pause_in_spin(spins);
    }
}

void PageLedger::save(uint64_t first, GroupMask mask, GroupMask zero, GroupMask neighbors,
                      Manner manner) {
    zero &= mask;
    neighbors &= mask;
    uint64_t unclaimed = 0;
    for (unsigned left = mask; left != 0;) {
        const unsigned i = static_cast<unsigned>(std::bit_width(left)) - 1;
        const unsigned bit = 1u << i;
        left &= ~bit;
        uint8_t record = saved_bit | static_cast<uint8_t>(manner);
        record |= (zero & bit) != 0 ? zero_bit : 0;
        record |= (neighbors & bit) != 0 ? neighbor_bit : 0;
        const uint8_t before = states_[first + i].exchange(record, std::memory_order_acq_rel);
        unclaimed += (before & ~written_bit) != claimed_state;
    }
    const auto number = [](GroupMask m) { return static_cast<uint64_t>(std::popcount(m)); };
    if (unclaimed != 0) {
        unclaimed_saves_.fetch_add(unclaimed, std::memory_order_relaxed);
    }
    zero_.fetch_add(number(zero), std::memory_order_relaxed);
    neighbors_.fetch_add(number(neighbors), std::memory_order_relaxed);
    by_manner_[static_cast<size_t>(manner)].fetch_add(number(mask), std::memory_order_relaxed);
    saved_.fetch_add(number(mask), std::memory_order_release);
}

void PageLedger::wait_saved(uint64_t page) const {
    for (int spins = 0; !saved(page); spins++) {
        pause_in_spin(spins);
    }
}

PageLedger::Counts PageLedger::counts() const {
    Counts counts;
    counts.zero = zero_.load(std::memory_order_relaxed);
    counts.neighbors = neighbors_.load(std::memory_order_relaxed);
    for (size_t i = 0; i < by_manner_.size(); i++) {
        counts.by_manner[i] = by_manner_[i].load(std::memory_order_relaxed);
    }
    return counts;
}

std::optional<std::string> PageLedger::disproof() const {
    Counts recount;
    uint64_t saved_count = 0;
    for (uint64_t page = 0; page < pages_; page++) {
        const uint8_t state = states_[page].load(std::memory_order_acquire);
        if ((state & saved_bit) == 0) {
            return "page " + std::to_string(page) + " of " + std::to_string(pages_) +
                   ((state & ~written_bit) == claimed_state ? " was claimed but not saved"
                    : state == ceded_state ? " was left to KVM, and its copy did not come"
                                           : " was not saved");
        }
        saved_count++;
        recount.zero += (state & zero_bit) != 0;
        recount.neighbors += (state & neighbor_bit) != 0;
        recount.by_manner[state & manner_bits]++;
    }
    if (unclaimed_saves_.load() != 0) {
        return std::to_string(unclaimed_saves_.load()) + " pages were saved without a claim";
    }
    if (saved_count != saved_pages() || recount != counts()) {
        return "the counts by manner do not add up to " + std::to_string(pages_) + " pages";
    }
    return std::nullopt;
}

} // namespace hotsnap::memory
