// SPDX-License-Identifier: GPL-2.0-or-later
//
// Page ledger: one atomic state per page, so that each page is saved exactly once, whichever thread
// comes first, and so that this can be proved at the end (HotSnap, LISA '13, Table 2: page
// manners).
//
//        +----------------reopen (before the cut only)---------------+
//        v                                                           |
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
//     slots before it claims. A claim is therefore always short, and a waiting thread may spin.
//  3. Write protection of a page is removed only after its state is Saved. save() stores with
//     release order and saved() loads with acquire order: a thread that sees Saved knows that the
//     copy is done.
//  4. From the cut on Saved is final, and nothing becomes Unsaved again.
//
// Before the cut pages may be saved, too (precopy.h). One that was written since is reopened: what
// was saved of it counts no more. It remembers that its place in the image is not a hole, so that
// whoever finds it zero the next time writes zeros there. Under a trap in which the kernel saves,
// nothing is reopened.
//
// Where the kernel saves pages too (kvm_trap.h), its bitmap decides whose copy counts, and the
// ledger follows. A claimer that finds that the kernel was first cedes its claim. The one thread
// that takes the kernel's copies from the ring claims the page, from Unsaved or from Ceded:
//  - It never finds Saved. A claimer of claim() saves a page only after winning the page's bit; the
//    ring's thread saves only a copy with which the kernel has won the bit; a bit is won once.
//  - It need not wait for long when it finds Claimed. That claimer only copies (rule 2), then finds
//    the bit set, and cedes.
// Ceded differs from Unsaved so that no other thread claims the page only to find out the same, and
// so that a thread that finds no Unsaved page in a group need not take a slot for it.
//
// For a huge page saved as a unit, the state of the first 4 KiB page stands for all.
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

enum class Manner : uint8_t { background, guest_write, dma_write, kvm_write, precopy };
inline constexpr size_t manner_count = 5;

class PageLedger {
  public:
    struct Counts {
        uint64_t zero = 0;
        uint64_t neighbors = 0;
        std::array<uint64_t, manner_count> by_manner{}; // indexed by Manner
        bool operator==(const Counts &) const = default;
    };

    explicit PageLedger(uint64_t pages);

    uint64_t pages() const { return pages_; }

    // Claims the unsaved ones of `count` (at most group_pages) pages; returns which these are.
    GroupMask claim(uint64_t first, uint32_t count);

    // Claims a huge page of `count` pages as a whole.
    bool claim_unit(uint64_t first, uint64_t count);

    // Gives up claims of the caller: the kernel has saved these pages, and only its copies count.
    void cede(uint64_t first, GroupMask mask);

    // Claims a page that the kernel has saved. False when it is saved already, which cannot happen.
    bool claim_kernels(uint64_t page);

    // Saves the pages of `mask`, claimed by the caller, of the group that begins at `first`.
    // `zero` and `neighbors` tell which of them are zero, or neighbors. Stores in falling order, so
    // that the first page, which stands for a huge page, comes last.
    void save(uint64_t first, GroupMask mask, GroupMask zero, GroupMask neighbors, Manner manner);

    // Before the cut: the saved ones of these pages are unsaved again, and no more in the counts. A
    // page that is being saved is waited for (rule 2). In falling order, as save.
    void reopen(uint64_t first, uint64_t count);

    // Which of the pages of `mask` have bytes in the image that are to be replaced, be it by zeros.
    // For the claimer of the pages.
    GroupMask replaced(uint64_t first, GroupMask mask) const;
    bool replaced(uint64_t page) const {
        return (states_[page].load(std::memory_order_relaxed) & (saved_bit | written_bit)) ==
               written_bit;
    }

    bool saved(uint64_t page) const {
        return (states_[page].load(std::memory_order_acquire) & saved_bit) != 0;
    }
    bool unsaved(uint64_t page) const {
        return (states_[page].load(std::memory_order_relaxed) & ~written_bit) == unsaved_state;
    }

    // Spins (rule 2) until a claimed page is saved.
    void wait_saved(uint64_t page) const;

    // Saved, and not zero: has data in the image.
    bool has_data(uint64_t page) const {
        return (states_[page].load(std::memory_order_relaxed) & (saved_bit | zero_bit)) ==
               saved_bit;
    }

    uint64_t saved_pages() const { return saved_.load(std::memory_order_acquire); }
    Counts counts() const;

    // Says what is wrong; nothing when every page was saved, exactly once since it was reopened
    // last, and the counters agree with the states.
    std::optional<std::string> disproof() const;

  private:
    static constexpr uint8_t unsaved_state = 0;
    static constexpr uint8_t claimed_state = 1;
    static constexpr uint8_t ceded_state = 2;
    static constexpr uint8_t saved_bit = 0x80;
    static constexpr uint8_t zero_bit = 0x40;
    static constexpr uint8_t neighbor_bit = 0x20;
    static constexpr uint8_t written_bit = 0x10; // not of Saved: the image has bytes of it
    static constexpr uint8_t manner_bits = 0x07;

    uint64_t pages_;
    std::unique_ptr<std::atomic<uint8_t>[]> states_;
    std::atomic<uint64_t> saved_{0};
    std::atomic<uint64_t> zero_{0};
    std::atomic<uint64_t> neighbors_{0};
    std::atomic<uint64_t> unclaimed_saves_{0};
    std::array<std::atomic<uint64_t>, manner_count> by_manner_{};
};

} // namespace hotsnap::memory
#endif
