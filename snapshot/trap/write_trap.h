// SPDX-License-Identifier: GPL-2.0-or-later
//
// A write trap: makes the first write to a page stop until this library lets it go on.
//
// Life: attach, then any mix of arm and release while a thread of the library takes faults, then
// detach. Engines: uffd_trap.h (userfaultfd), none_trap.h (traps nothing, for negative controls).
//
// A trap with a bitmap (kvm_trap.h) is of another kind: cut() arms all at once; who writes is told
// in its own thread and saves the page there (writer_service.h), so there are no faults to take;
// and the kernel saves pages as well, whose copies come through a ring (ring_service.h).
#ifndef HOTSNAP_TRAP_WRITE_TRAP_H
#define HOTSNAP_TRAP_WRITE_TRAP_H

#include "guest/guest_memory.h"

#include <cstdint>
#include <optional>
#include <span>

namespace hotsnap::memory {

struct WriteFault {
    uint64_t address = 0; // anywhere in the page
    int tid = 0;          // thread that writes; not of this process: a kernel worker
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

    // To be called once for each run before it is armed first; may read the memory.
    virtual void prepare(const PageRun &run) = 0;

    // Protects a run. When this returns, every write that has not happened yet will fault.
    virtual void arm(const PageRun &run) = 0;

    // Removes the protection of a run and wakes who waits for it. Harmless after detach.
    virtual void release(const PageRun &run) = 0;

    // Takes the faults that are there, without waiting; returns how many.
    virtual size_t next_faults(std::span<WriteFault> faults) = 0;

    // Sleeps until there are faults or wake() was called since the last wait.
    virtual void wait() = 0;
    virtual void wake() = 0;

    // Removes every protection and wakes all, in slices. No arm may run or follow. When every page
    // has been released already, and no release is under way, `all_released` saves half the work.
    virtual void detach(bool all_released) = 0;

    // Of a trap with a bitmap; others leave these as they are.
    //
    // Whether it is one.
    virtual bool has_bitmap() const { return false; }

    // The instant: when this returns, every write to a page whose bit is clear is trapped.
    virtual void cut() {}

    // The VM runs again: time for what the cut left to do.
    virtual void after_resume() {}

    // To be called after the pages of `mask` of a group were copied (or found to be absent), and
    // before the copies count. Returns those that nobody had saved; these may be written from now
    // on. The others were saved by the kernel.
    virtual GroupMask confirm(const PageRun &, GroupMask mask) { return mask; }

    // Whether every page of the run has been confirmed, by whomever.
    virtual bool confirmed(const PageRun &) const { return true; }

    // Where the kernel's copies come from; there from attach on. wait() waits for them.
    virtual CopyRing *ring() { return nullptr; }

    // How /proc/self/pagemap shows an armed page of anonymous memory that nothing backs, if that
    // cannot be mistaken for anything else.
    virtual std::optional<uint64_t> absent_pagemap_entry() const { return std::nullopt; }
};

} // namespace hotsnap::memory
#endif
