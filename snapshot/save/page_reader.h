// SPDX-License-Identifier: GPL-2.0-or-later
//
// Reads guest pages into staging slots without giving memory to pages that have none.
//
// Reading an untouched page through the mapping would populate it: harmless for anonymous memory
// (the shared zero page), costly for shared memory (a real page each), so absent pages are found
// first and taken as zero:
//
//   kind                      how an absent page is recognized
//   anonymous, 4 KiB          /proc/self/pagemap: neither present nor swapped, or an entry that
//                             can only be a protected hole (WriteTrap::absent_pagemap_entry)
//   shared tmpfs/memfd, 4 KiB mincore() and lseek(SEEK_DATA) say hole (swapped is data)
//   private tmpfs/memfd       both of the above: neither a copy of its own nor the file has it
//   shared hugetlbfs          not asked: pages are read with pread(), which gives zeros for a hole
//                             and does not fill it
//   anything else             not at all: every page is read through the mapping
//
// Why an absent page was zero at the cut. The caller of find_absent claims the page afterwards and
// uses the answer only if the claim succeeds. States do not go back then, so the page was Unsaved
// from the cut until the claim. Its protection, which is removed only from Saved pages, was there
// all the time, so no write took place since the cut. Nothing takes pages away meanwhile either
// (discards are forbidden while a snapshot runs, see snapshot.h). So a page that was absent at any
// moment in between was absent at the cut: zero. A page that was saved and released since may well
// have changed, but then the claim fails and the answer is not used. Read-only blocks are never
// written. Under engine "none" nothing is guaranteed, by intent. Before the cut (precopy.h) an
// answer may be wrong, if the page was written meanwhile; then the page is saved once more.
#ifndef HOTSNAP_SAVE_PAGE_READER_H
#define HOTSNAP_SAVE_PAGE_READER_H

#include "guest/guest_memory.h"
#include "image/staging_pool.h"
#include "os/file.h"

#include <optional>
#include <vector>

namespace hotsnap::memory {

class PageReader {
  public:
    PageReader(const GuestMemory &memory, std::optional<uint64_t> absent_pagemap_entry);

    // Sets absent[i] when page first + i of the run surely has nothing behind it. `absent` has
    // run.count elements. Any thread.
    void find_absent(const PageRun &run, std::vector<bool> &absent) const;

    // A hint whether a page that find_absent did not name is zero, for an estimate. False where
    // looking could give the page memory. Any thread.
    bool looks_zero(const MemoryBlock &block, uint64_t page) const;

    // Copies the pages of `mask` of the group into the slot, page i to i * page_bytes, except zero
    // pages, whose place is left as it was; returns the mask of pages that are not zero. Any
    // thread.
    GroupMask copy(const MemoryBlock &block, uint64_t first, GroupMask mask, Slot slot) const;

    // Upper bound of the bytes that are not holes, for the space check; in O(1). `not_guest`:
    // anonymous memory of this process that is known not to be the guest's.
    uint64_t resident_bytes(uint64_t not_guest) const;

  private:
    enum class Way { plain, pagemap, seek, pagemap_and_seek, pread };

    Way way_of(const MemoryBlock &block) const;
    void find_absent_by_pagemap(const PageRun &run, std::vector<bool> &absent) const;
    void find_absent_by_seek(const PageRun &run, std::vector<bool> &absent) const;
    bool absent_entry(uint64_t entry) const;

    const GuestMemory &memory_;
    std::optional<uint64_t> absent_pagemap_entry_;
    Fd pagemap_;
    std::vector<Way> ways_; // by index of block
};

} // namespace hotsnap::memory
#endif
