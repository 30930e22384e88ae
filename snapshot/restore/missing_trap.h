// SPDX-License-Identifier: GPL-2.0-or-later
//
// Memory whose pages are absent until they are installed: userfaultfd in its "missing" mode. A
// thread that touches an absent page waits in the kernel, in user mode (TCG, device emulation) as
// well as in kernel mode (KVM, disk I/O into guest memory).
//
// The descriptor must stay open while a page is absent. When it is closed, the kernel wakes all
// threads that wait and gives them pages of zeros: silent damage. So nothing here closes it but the
// destructor, whose caller knows that all pages are there or that the memory is used no more.
#ifndef HOTSNAP_RESTORE_MISSING_TRAP_H
#define HOTSNAP_RESTORE_MISSING_TRAP_H

#include "os/file.h"

#include <cstddef>
#include <cstdint>
#include <span>

namespace hotsnap::memory {

class MissingTrap {
  public:
    struct Fault {
        uint64_t address = 0;
        int tid = 0; // 0: not known
    };
    enum class Outcome {
        installed,
        occupied, // a page is there already: somebody wrote to absent memory past the trap
        gone,     // the memory is not mapped, or not trapped, any more
    };

    // Throws Error when userfaultfd is not permitted or lacks a feature. `shared`, `huge`: some of
    // the memory is.
    MissingTrap(bool shared, bool huge);

    // From now on a page that is not there is absent. False when memory of this kind cannot be
    // trapped; throws Error after another failure. The range is in whole pages, `huge` or not; huge
    // pages cannot be given to install_zeros.
    bool trap(uint64_t address, uint64_t length, bool huge);

    // Wakes those who wait; pages that are not there read as zeros again. Ignores failures: the
    // memory may be gone.
    void release(uint64_t address, uint64_t length);

    // Puts pages where there are none, and wakes those who wait for them. Any thread. Throws Error
    // after an unexpected failure.
    Outcome install(uint64_t address, std::span<const std::byte> pages);
    Outcome install_zeros(uint64_t address, uint64_t length);

    // Wakes those who wait for a page that is there.
    void wake_waiters(uint64_t address, uint64_t length);

    // Takes faults that have come; waits for one, at most so long (-1: forever), or for wake().
    size_t next_faults(std::span<Fault> faults);
    void wait(int milliseconds);
    void wake();

  private:
    Fd uffd_;
    Fd wake_;
};

} // namespace hotsnap::memory
#endif
