// SPDX-License-Identifier: GPL-2.0-or-later
//
// Tells which pages were written, while the VM runs. Behind this interface a copy that goes on
// before its instant (precopy.h) does not depend on how writes are noticed; save/arming.h does it
// with write traps. Others can be added: a log kept by QEMU or KVM, or asynchronous write
// protection, for which the kernel itself keeps the notes.
//
// The contract: begin() returns when every later write is noted. take() gives out each page that
// was written since it was last given out, or since begin(). When take() returns, later writes to
// the pages that it gave out are noted anew. So a write that comes during take() is given out by
// this call or by the next one, and never by none. To give out a page that was not written is
// allowed.
//
// Hence: who copies a page after begin(), and forgets the copy when take() gives the page out, has
// after each take() only copies of pages that were not written since they were copied, except for
// pages that a later take() will give out.
#ifndef HOTSNAP_GUEST_DIRTY_SOURCE_H
#define HOTSNAP_GUEST_DIRTY_SOURCE_H

#include "guest/guest_memory.h"

#include <vector>

namespace hotsnap::memory {

class DirtySource {
  public:
    DirtySource() = default;
    DirtySource(const DirtySource &) = delete;
    DirtySource &operator=(const DirtySource &) = delete;
    virtual ~DirtySource() = default;

    // False when stopped meanwhile. Takes time in a large guest.
    virtual bool begin() = 0;

    // Pages may be named more than once. In a block by units, whole units.
    virtual std::vector<PageRun> take() = 0;
};

} // namespace hotsnap::memory
#endif
