// SPDX-License-Identifier: GPL-2.0-or-later
//
// Page ledger: one atomic state per page, so that each page is saved exactly once whoever comes
// first, and so that this can be proved at the end (HotSnap, LISA '13, Table 2: page manners).
//
//     Unsaved --claim--> Claimed --save--> Saved (manner, zero?, neighbor?)
//        |                |    ^
//        |              cede   claim_kernels
//        |                v    |
//        |                Ceded
//        +----claim_kernels----> Claimed, as above
//
// Rules that the rest of the library rests on:
//  1. Only the thread whose claim succeeded copies the page and calls save.
//  2. Between claim and save that thread does nothing but read the page: it takes its staging
//     slots before it claims. A claim is therefore always short, and who waits for one may spin.
//  3. Write protection of a page is removed only after its state is Saved. save() stores with
//     release order and saved() loads with acquire order: who sees Saved knows the copy is done.
//  4. Saved is final, and nothing becomes Unsaved again.
//
// Where the kernel saves pages too (kvm_trap.h), its bitmap decides whose copy counts, and the
// ledger follows: a claimer that finds the kernel was first cedes the claim, and the one thread
// that takes the kernel's copies from its ring claims the page, from Unsaved or from Ceded. Why it
// never finds Saved: a page is saved by a claimer of claim() only after that claimer has won the
// page's bit, or by claim_kernels()'s only for a copy with which the kernel has won it; a bit is
// won once. Why it need not wait for long when it finds Claimed: that claimer only copies (rule 2),
// and then finds the bit set, so it cedes. Ceded is not Unsaved, so that nobody else claims the
// page only to find out the same, and who saw that nothing of a group is Unsaved need not take a
// slot for it.
//
// Of a huge page saved as a unit, the state of the first 4 KiB page stands for all.
#ifndef HOTSNAP_GUEST_PAGE_LEDGER_H
#define HOTSNAP_GUEST_PAGE_LEDGER_H

#include "guest/guest_memory.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace hotsnap::memory {

enum class Manner : uint8_t { background, guest_write, dma_write, kvm_write };

class PageLedger {
  public:
    struct Counts {
        uint64_t zero = 0;
        uint64_t neighbors = 0;
        std::array<uint64_t, 4> by_manner{}; // indexed by Manner
        bool operator==(const Counts &) const = default;
    };

    explicit PageLedger(uint64_t pages);

    uint64_t pages() const { return pages_; }

    // Claims those of `count` (at most group_pages) pages that are unsaved; tells which.
    GroupMask claim(uint64_t first, uint32_t count);

    // Claims a huge page of `count` pages as a whole.
    bool claim_unit(uint64_t first, uint64_t count);

    // Gives up claims of the caller: the kernel has saved these pages, and only its copies count.
    void cede(uint64_t first, GroupMask mask);

    // Claims a page that the kernel has saved. False when it is saved already, which cannot be.
    bool claim_kernels(uint64_t page);

    // Saves the pages of `mask`, claimed by the caller, of the group that begins at `first`.
    // `zero` and `neighbors` tell which of them are. Stores in falling order, so that the first
    // page, which stands for a huge page, comes last.
    void save(uint64_t first, GroupMask mask, GroupMask zero, GroupMask neighbors, Manner manner);

    bool saved(uint64_t page) const {
        return (states_[page].load(std::memory_order_acquire) & saved_bit) != 0;
    }
    bool unsaved(uint64_t page) const {
        return states_[page].load(std::memory_order_relaxed) == unsaved_state;
    }

    // Spins (rule 2) until a page that someone claimed is saved.
    void wait_saved(uint64_t page) const;

    // Saved, and not zero: has data in the image.
    bool has_data(uint64_t page) const {
        return (states_[page].load(std::memory_order_relaxed) & (saved_bit | zero_bit)) ==
               saved_bit;
    }

    uint64_t saved_pages() const { return saved_.load(std::memory_order_acquire); }
    Counts counts() const;

    // Nothing when every page was saved exactly once and the counters agree with the states, else
    // what is wrong.
    std::optional<std::string> disproof() const;

  private:
    static constexpr uint8_t unsaved_state = 0;
    static constexpr uint8_t claimed_state = 1;
    static constexpr uint8_t ceded_state = 2;
    static constexpr uint8_t saved_bit = 0x80;
    static constexpr uint8_t zero_bit = 0x40;
    static constexpr uint8_t neighbor_bit = 0x20;
    static constexpr uint8_t manner_bits = 0x03;

    uint64_t pages_;
    std::unique_ptr<std::atomic<uint8_t>[]> states_;
    std::atomic<uint64_t> saved_{0};
    std::atomic<uint64_t> zero_{0};
    std::atomic<uint64_t> neighbors_{0};
    std::atomic<uint64_t> unclaimed_saves_{0};
    std::array<std::atomic<uint64_t>, 4> by_manner_{};
};

} // namespace hotsnap::memory
#endif
