// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef HOTSNAP_TRAP_UFFD_OPEN_H
#define HOTSNAP_TRAP_UFFD_OPEN_H

#include "os/file.h"

#include <cstdint>

namespace hotsnap::memory {

// A userfaultfd that sees faults in kernel mode, too (KVM, disk I/O): without the handshake, and
// not blocking. Throws Error that says who may have one.
Fd open_uffd();

// The features that this kernel offers.
uint64_t offered_uffd_features();

} // namespace hotsnap::memory
#endif
