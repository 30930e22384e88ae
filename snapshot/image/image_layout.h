// SPDX-License-Identifier: GPL-2.0-or-later
//
// Where everything lies in the memory image: QEMU's "mapped-ram" migration stream, as an unpatched
// QEMU 10.0 reads it with `migrate-incoming file:` (QEMU: docs/devel/migration/mapped-ram.rst).
//
//     stream_head                      magic, version, configuration (given by QEMU)
//     0x01 be32 id, u8 3 "ram",        section start
//          be32 instance 0, be32 version
//     be64 total bytes | 0x04
//     for each block:
//         u8 length, name, be64 bytes
//         be32 1, be64 4096, be64 offset of bitmap, be64 offset of pages
//         bitmap                       host-endian unsigned longs; bit set: page is in the image
//         zeros to the next 1 MiB      <- the pages' offset
//         pages                        page i at i * 4096; clear bit: a hole
//     be64 0x10, [0x7e be32 id]        end of the first part; footer
//     0x03 be32 id, be64 0x10, [0x7e be32 id]      section end
//     tail                             device sections, end mark (given by QEMU)
//
// Everything but the pages is "metadata" here. Metadata is known when the snapshot is made, except
// for the bits and the tail, and is written last. Blocks are whole pages and pages begin on 1 MiB,
// so each piece of metadata begins on a page boundary of the file.
#ifndef HOTSNAP_IMAGE_IMAGE_LAYOUT_H
#define HOTSNAP_IMAGE_IMAGE_LAYOUT_H

#include "guest/guest_memory.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace hotsnap::memory {

struct StreamFormat {
    std::vector<std::byte> head;
    uint32_t section_id = 0;
    uint32_t version_id = 4;
    bool section_footer = true;
};

class ImageLayout {
  public:
    struct Piece {
        uint64_t offset = 0;
        std::vector<std::byte> bytes;
    };

    ImageLayout(StreamFormat format, const GuestMemory &memory);

    uint64_t pages_offset(const MemoryBlock &block) const;
    uint64_t page_offset(const MemoryBlock &block, uint64_t page) const {
        return pages_offset(block) + page * page_bytes;
    }

    // Where the pages of the last block end, which is where the last piece of metadata begins.
    uint64_t pages_end() const { return pages_end_; }

    // Everything but the pages. `has_data` tells for a page number whether its bit is set.
    std::vector<Piece> metadata(const std::function<bool(uint64_t)> &has_data,
                                std::span<const std::byte> tail) const;

    static uint64_t size(const std::vector<Piece> &metadata) {
        return metadata.back().offset + metadata.back().bytes.size();
    }

  private:
    struct Place {
        uint64_t bitmap_offset;
        uint64_t pages_offset;
    };

    std::vector<std::byte> section_start() const;

    StreamFormat format_;
    const GuestMemory &memory_;
    std::vector<Place> places_; // by index of block
    uint64_t pages_end_;
};

} // namespace hotsnap::memory
#endif
