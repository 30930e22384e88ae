// SPDX-License-Identifier: GPL-2.0-or-later
//
// Saves pages into staging: claim, copy, mark saved, and later hand over to the image writer. The
// fault thread and the background copy have one each; no two threads use one at the same time.
//
// Order of things, which keeps the image right and everyone moving:
//  1. Slots first. A claim is made only with the slots for it in hand, so between claim and save
//     there is nothing but reading memory (page_ledger.h, rule 2).
//  2. Nothing staged is kept back while waiting for slots: what was filled goes to the writer
//     before the wait, so the pool always fills up again as long as storage moves.
//  3. Protection last: release() touches only pages that are Saved, whoever saved them.
//
// A trap in which the kernel saves pages too (kvm_trap.h) is asked after the copy which of them
// count (WriteTrap::confirm). The others have been saved by the kernel before: the own copies,
// which may be of later content, are thrown away, and the claims are ceded to whoever brings the
// kernel's copies (ring_service.h).
#ifndef HOTSNAP_SAVE_PAGE_SAVER_H
#define HOTSNAP_SAVE_PAGE_SAVER_H

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

// What saving needs; the parts outlive the savers.
struct SaveParts {
    WriteTrap &trap;
    PageLedger &ledger;
    StagingPool &pool;
    const PageReader &reader;
    const ImageLayout &layout;
    ImageWriter &writer;
};

class PageSaver {
  public:
    // Pages of a block that someone is about to write; others that are saved on that occasion count
    // as their neighbors. None: nobody writes.
    struct Wanted {
        uint64_t first = 0;
        uint64_t count = 0;
    };

    PageSaver(const SaveParts &parts, StagingPool::User user) : parts_(parts), user_(user) {}
    ~PageSaver();
    PageSaver(const PageSaver &) = delete;
    PageSaver &operator=(const PageSaver &) = delete;

    // Saves what is still unsaved of a run, which begins on a group and, of units, is one. `absent`
    // as of PageReader::find_absent, or empty. False when the pool was closed.
    bool save(const PageRun &run, const std::vector<bool> &absent, Manner manner, Wanted wanted);

    // Saves a page that the kernel has copied. False when the pool was closed.
    bool save_kernels(const PageRun &page, const std::byte *copy);

    // Removes the protection of those pages of the run that are saved; tells whether all are.
    bool release(const PageRun &run);

    // Hands what was staged to the writer.
    void flush();

    // The same, and gives back slots in hand: for a saver that may not be used for long.
    void rest();

    uint64_t staged_bytes() const { return staged_bytes_; } // so far
    uint64_t full_waits() const { return full_waits_.load(std::memory_order_relaxed); }

  private:
    bool save_group(const PageRun &group, GroupMask absent, Manner manner, Wanted wanted);
    bool save_unit(const PageRun &unit, Manner manner, Wanted wanted);
    bool get_slots(size_t count);
    GroupMask copy(const PageRun &group, GroupMask mask, Slot slot);
    void stage(const PageRun &group, GroupMask data, Slot slot);

    SaveParts parts_;
    StagingPool::User user_;
    std::vector<Slot> spare_; // slots in hand, empty
    std::vector<StagedGroup> staged_;
    uint64_t staged_bytes_ = 0;
    std::atomic<uint64_t> full_waits_{0};
    std::exception_ptr read_error_;
};

} // namespace hotsnap::memory
#endif
