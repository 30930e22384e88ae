// SPDX-License-Identifier: GPL-2.0-or-later
//
// Test hook: the memory as a mapped-ram file by plain sequential writes in one thread. It shares
// the layout with the snapshot and nothing else (no trap, no ledger, no staging, no skipping of
// absent pages), so comparing both files tests all of these.
#ifndef HOTSNAP_IMAGE_IMAGE_DUMP_H
#define HOTSNAP_IMAGE_IMAGE_DUMP_H

#include "guest/guest_memory.h"
#include "image/image_layout.h"

#include <string>

namespace hotsnap::memory {

// The file must not exist. O(RAM). Nothing may write to the memory meanwhile.
void dump_image(const GuestMemory &memory, const ImageLayout &layout, const std::string &path);

} // namespace hotsnap::memory
#endif
