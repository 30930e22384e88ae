// SPDX-License-Identifier: GPL-2.0-or-later
//
// A write trap: makes the first write to a page stop until this library lets it go on.
//
// Life: attach, then any mix of arm and release while a thread of the library takes faults, then
// detach. Engines: uffd_trap.h (userfaultfd), none_trap.h (traps nothing, for negative controls).
//
// A trap with a bitmap (kvm_trap.h) is of another kind. cut() arms all memory at once. The thread
// that is about to write is told so and saves the page itself (writer_service.h), so there are no
// faults to take. The kernel saves pages as well; its copies come through a ring (ring_service.h).
#ifndef HOTSNAP_TRAP_WRITE_TRAP_H
#define HOTSNAP_TRAP_WRITE_TRAP_H

#include "guest/guest_memory.h"

#include <cstdint>
#include <optional>
#include <span>

namespace hotsnap::memory {

struct WriteFault {
    uint64_t address = 0; // anywhere in the page
    int tid = 0;          // thread that writes; a kernel worker if not of this process
};

class CopyRing;

class WriteTrap {
  public:
    virtual ~WriteTrap() = default;
    WriteTrap() = default;
    WriteTrap(const WriteTrap &) = delete;
    WriteTrap &operator=(const WriteTrap &) = delete;

    virtual const char *name() const = 0;
    virtual bool traps() const = 0;

    // Makes the memory trappable; protects nothing yet. Throws when it cannot be done.
    virtual void attach(const GuestMemory &memory) = 0;

    // To be called once for each run before it is first armed; may read the memory.
    virtual void prepare(const PageRun &run) = 0;

    // Protects a run. When this returns, every write that has not happened yet will fault.
    virtual void arm(const PageRun &run) = 0;

    // Removes the protection of a run and wakes the threads that wait for it. Harmless after
    // detach.
    virtual void release(const PageRun &run) = 0;

    // Takes the faults that are there, without waiting; returns how many.
    virtual size_t next_faults(std::span<WriteFault> faults) = 0;

    // Sleeps until there are faults or wake() was called since the last wait.
    virtual void wait() = 0;
    virtual void wake() = 0;

    // Removes every protection and wakes all waiting threads, in slices. No arm may run or follow.
    // When every page has been released already, and no release is under way, `all_released` saves
    // half the work.
    virtual void detach(bool all_released) = 0;

    // From here to ring(): for a trap with a bitmap; other traps override none of these.
    //
    // Whether this is a trap with a bitmap.
    virtual bool has_bitmap() const { return false; }

    // The instant: when this returns, every write to a page whose bit is clear is trapped.
    virtual void cut() {}

    // The VM runs again: does the work that the cut left.
    virtual void after_resume() {}

    // To be called after the pages of `mask` of a group were copied (or found to be absent), and
    // before the copies count. Returns the pages that nobody had saved; these may be written from
    // now on. The others were saved by the kernel.
    virtual GroupMask confirm(const PageRun &, GroupMask mask) { return mask; }

    // Whether every page of the run has been confirmed, by the library or by the kernel.
    virtual bool confirmed(const PageRun &) const { return true; }

    // The ring with the kernel's copies; it exists from attach on. wait() waits for copies.
    virtual CopyRing *ring() { return nullptr; }

    // The entry that /proc/self/pagemap shows for an armed page of anonymous memory that nothing
    // backs, if it cannot be mistaken for anything else.
    virtual std::optional<uint64_t> absent_pagemap_entry() const { return std::nullopt; }
};

} // namespace hotsnap::memory
#endif
