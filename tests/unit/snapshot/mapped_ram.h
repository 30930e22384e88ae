// SPDX-License-Identifier: GPL-2.0-or-later
//
// Reads a mapped-ram image as QEMU's loader does (migration/savevm.c, migration/ram.c). It shares
// no code with the library, and accepts and finds the same as a stock QEMU would.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace hotsnap::memory::test {

struct LoadedBlock {
    std::vector<std::byte> memory; // as it would be after loading into fresh RAM
    uint64_t bits_set = 0;
    uint64_t bitmap_offset = 0;
    uint64_t pages_offset = 0;
};

struct LoadedImage {
    std::map<std::string, LoadedBlock> blocks;
    std::vector<std::string> order;
    std::vector<std::byte> tail;
    uint64_t file_size = 0;
    uint64_t allocated = 0; // bytes on disk

    uint64_t bits_set() const; // of all blocks
};

// Pages in which memory and image differ.
uint64_t torn_pages(const std::vector<std::byte> &memory, const std::vector<std::byte> &image);

// Throws std::runtime_error when QEMU would refuse the stream. `head`: the bytes that must precede
// the first section.
LoadedImage load_image(const std::string &path, const std::vector<std::byte> &head, bool footer,
                       uint32_t section_id);

} // namespace hotsnap::memory::test
