// SPDX-License-Identifier: GPL-2.0-or-later
//
// Memory that is not there yet when a guest reads it. KVM does not let the vCPU wait: it tells the
// guest that the page is missing (an asynchronous page fault), and later that the page has come.
#pragma once

#include "machine.h"

namespace hotsnap::kvmtest {

class SlowMemory {
  public:
    // At Machine::alias. Throws Skipped where this process may have no userfaultfd.
    explicit SlowMemory(const Machine &machine);
    // Makes the first page come, for which the guest waits; harmless when it has come.
    void come() const;

  private:
    Memory memory_;
    Fd faults_;
};

} // namespace hotsnap::kvmtest
