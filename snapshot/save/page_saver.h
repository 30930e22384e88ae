// SPDX-License-Identifier: GPL-2.0-or-later
//
// Saves pages into staging: claim, copy, mark saved, and later hand over to the image writer. Each
// thread that saves has a saver of its own; no two threads use one at the same time.
//
// The order of steps, which keeps the image right and every thread moving:
//  1. Slots first. A claim is made only with the slots for it in hand, so between claim and save
//     there is nothing but reading memory (page_ledger.h, rule 2).
//  2. Nothing staged is kept back while waiting for slots: filled slots go to the writer before the
//     wait, so the pool always fills up again as long as storage moves.
//  3. Protection last: release() touches only pages that are Saved, by whichever thread.
//
// A trap in which the kernel saves pages too (kvm_trap.h) is asked after the copy which pages count
// (WriteTrap::confirm). The other pages were saved by the kernel before. Their copies made here,
// which may be of later content, are thrown away, and their claims are ceded to the thread that
// brings the kernel's copies (ring_service.h).
#ifndef HOTSNAP_SAVE_PAGE_SAVER_H
#define HOTSNAP_SAVE_PAGE_SAVER_H

#include "access/access_log.h"
#include "guest/guest_memory.h"
#include "guest/page_ledger.h"
#include "image/image_layout.h"
#include "image/image_writer.h"
#include "image/staging_pool.h"
#include "save/page_reader.h"
#include "trap/write_trap.h"

#include <atomic>
#include <exception>
#include <vector>

namespace hotsnap::memory {

// The parts that saving needs; they outlive the savers.
struct SaveParts {
    WriteTrap &trap;
    PageLedger &ledger;
    StagingPool &pool;
    const PageReader &reader;
    const ImageLayout &layout;
    ImageWriter &writer;
    AccessLog &accesses; // writes after the cut
};

class PageSaver {
  public:
    // Pages of a block that are about to be written; other pages that are saved on that occasion
    // count as their neighbors. None: no write is the occasion.
    struct Wanted {
        uint64_t first = 0;
        uint64_t count = 0;
    };

    // Pages so far.
    struct Tally {
        uint64_t saved = 0;
        uint64_t read = 0; // the others were absent
        // Staged: read, not zero, and not saved by the kernel before; or zeros over older bytes.
        uint64_t data = 0;
    };

    PageSaver(const SaveParts &parts, StagingPool::User user) : parts_(parts), user_(user) {}
    ~PageSaver();
    PageSaver(const PageSaver &) = delete;
    PageSaver &operator=(const PageSaver &) = delete;

    // Saves the pages of a run that are still unsaved. The run begins on a group; in a block with
    // units it is one unit. `absent` comes from PageReader::find_absent, or is empty. False when
    // the pool was closed.
    bool save(const PageRun &run, const std::vector<bool> &absent, Manner manner, Wanted wanted);

    // Saves a page that the kernel has copied. False when the pool was closed.
    bool save_kernels(const PageRun &page, const std::byte *copy);

    // Removes the protection of those pages of the run that are saved; tells whether all are.
    bool release(const PageRun &run);

    // A page that save() is not called for, as it is saved, is about to be written.
    void note_access(const MemoryBlock &block, uint64_t page);

    // Hands the staged groups to the writer.
    void flush();

    // The same, and gives back slots in hand: for a saver that may not be used for long.
    void rest();

    const Tally &tally() const { return tally_; }
    uint64_t full_waits() const { return full_waits_.load(std::memory_order_relaxed); }

  private:
    bool save_group(const PageRun &group, GroupMask absent, Manner manner, Wanted wanted);
    bool save_unit(const PageRun &unit, Manner manner, Wanted wanted);
    bool get_slots(size_t count);
    GroupMask copy(const PageRun &group, GroupMask mask, Slot slot);
    GroupMask zeros_over(const PageRun &group, GroupMask mask, Slot slot);
    void stage(const PageRun &group, GroupMask pages, Slot slot);

    SaveParts parts_;
    StagingPool::User user_;
    std::vector<Slot> spare_; // slots in hand, empty
    std::vector<StagedGroup> staged_;
    Tally tally_;
    std::atomic<uint64_t> full_waits_{0};
    std::exception_ptr read_error_;
};

} // namespace hotsnap::memory
#endif
