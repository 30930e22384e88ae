// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a memory image holds, and where: image/image_layout.h read backwards. Nothing is believed
// that was not compared with its checksum.
#ifndef HOTSNAP_RESTORE_IMAGE_INDEX_H
#define HOTSNAP_RESTORE_IMAGE_INDEX_H

#include "restore/verified_file.h"

#include <cstdint>
#include <string>
#include <vector>

namespace hotsnap::memory {

struct ImageBlock {
    std::string idstr;
    uint64_t length = 0;       // bytes, a multiple of page_bytes
    uint64_t pages_offset = 0; // in the file; a multiple of page_bytes
    std::vector<uint64_t> bitmap;

    uint64_t pages() const { return length / page_bytes; }
    // Whether the page is in the file; else it is zero.
    bool stored(uint64_t page) const { return (bitmap[page / 64] >> (page % 64) & 1) != 0; }
};

// Reads heads and bitmaps of all blocks, and compares the checksums of everything in the file but
// the pages: QEMU loads the devices from it. `section_id`: of the section "ram". Throws Error.
std::vector<ImageBlock> read_index(const VerifiedFile &file, uint32_t section_id);

} // namespace hotsnap::memory
#endif
