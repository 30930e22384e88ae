// SPDX-License-Identifier: GPL-2.0-or-later
//
// Test hook: the memory as a mapped-ram file by plain sequential writes in one thread. It shares
// the layout with the snapshot and nothing else (no trap, no ledger, no staging, no skipping of
// absent pages), so comparing both files tests all of these.
#pragma once

#include "guest_memory.h"
#include "image_layout.h"

#include <string>

namespace hotsnap {

// The file must not exist. O(RAM). Nothing may write to the memory meanwhile.
void dump_image(const GuestMemory &memory, const ImageLayout &layout, const std::string &path);

} // namespace hotsnap
