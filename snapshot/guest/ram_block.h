// SPDX-License-Identifier: GPL-2.0-or-later
//
// Blocks of guest memory as the C interfaces give them.
#ifndef HOTSNAP_GUEST_RAM_BLOCK_H
#define HOTSNAP_GUEST_RAM_BLOCK_H

#include "base/error.h"
#include "guest/guest_memory.h"
#include "hotsnap/snapshot.h"

#include <vector>

namespace hotsnap::memory {

inline MemoryBlock block_from(const hs_ram_block &c) {
    if (c.idstr == nullptr || *c.idstr == '\0') {
        throw Error("the name of a memory block is missing");
    }
    MemoryBlock block;
    block.idstr = c.idstr;
    block.host = static_cast<std::byte *>(c.host);
    block.length = c.length;
    block.page_size = c.page_size;
    block.fd = c.fd;
    block.fd_offset = c.fd_offset;
    block.shared = c.shared;
    block.read_only = c.read_only;
    block.save_at_cut = c.save_at_cut;
    return block;
}

inline std::vector<MemoryBlock> blocks_from(const hs_ram_block *blocks, size_t count) {
    std::vector<MemoryBlock> memory;
    for (size_t i = 0; i < count; i++) {
        memory.push_back(block_from(blocks[i]));
    }
    return memory;
}

} // namespace hotsnap::memory
#endif
