// SPDX-License-Identifier: GPL-2.0-or-later
//
// The guest's memory as the library sees it: blocks, and 4 KiB pages numbered through all blocks.
#ifndef HOTSNAP_GUEST_GUEST_MEMORY_H
#define HOTSNAP_GUEST_GUEST_MEMORY_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace hotsnap::memory {

inline constexpr uint64_t page_bytes = 4096;

// Pages are handled in groups that fill one staging slot; groups are aligned within their block.
inline constexpr uint32_t group_pages = 16;
inline constexpr uint64_t group_bytes = group_pages * page_bytes;
using GroupMask = uint16_t; // bit i: page i of the group

struct MemoryBlock {
    std::string idstr;
    std::byte *host = nullptr;
    uint64_t length = 0;             // bytes, a multiple of page_bytes
    uint64_t page_size = page_bytes; // of the backing
    int fd = -1;                     // backing file, or -1
    uint64_t fd_offset = 0;
    bool shared = false;
    bool read_only = false;
    bool save_at_cut = false; // the caller writes there past the trap (snapshot.h)
    bool split = false;       // the trap takes huge pages apart: one write fault covers 4 KiB
    uint64_t first_page = 0;  // number of its first page among the pages of all blocks

    uint64_t pages() const { return length / page_bytes; }
    bool huge() const { return page_size > page_bytes; }
    // One write fault covers a unit: a backing page, or 4 KiB. by_unit: a unit is more than 4 KiB.
    uint64_t unit_pages() const { return split ? 1 : page_size / page_bytes; }
    bool by_unit() const { return unit_pages() > 1; }
    // In whole backing pages: the last one may be used only in part, but is trapped as a whole.
    uint64_t mapped_length() const { return (length + page_size - 1) & ~(page_size - 1); }
};

// A run of pages of one block; `first` counts from the start of the block.
struct PageRun {
    const MemoryBlock *block = nullptr;
    uint64_t first = 0;
    uint64_t count = 0;

    std::byte *host() const { return block->host + first * page_bytes; }
    uint64_t bytes() const { return count * page_bytes; }
    uint64_t number() const { return block->first_page + first; } // among all pages
};

// Immutable after construction; read by all threads.
class GuestMemory {
  public:
    // Checks the blocks and numbers their pages. Blocks of length 0 are left out: the loader
    // stops at the announced total and would never read their headers.
    explicit GuestMemory(std::vector<MemoryBlock> blocks);

    const std::vector<MemoryBlock> &blocks() const { return blocks_; }
    uint64_t pages() const { return pages_; }
    uint64_t bytes() const { return pages_ * page_bytes; }
    uint64_t largest_unit_pages() const { return largest_unit_pages_; }

    // The block that holds the page with this number, or this address (null when none does).
    const MemoryBlock &block_of_page(uint64_t number) const;
    const MemoryBlock *block_of_address(uint64_t address) const;

    // The aligned run of `pages` (a power of two; by_unit: one unit) around a page.
    static PageRun aligned_run(const MemoryBlock &block, uint64_t page, uint64_t pages);

  private:
    std::vector<MemoryBlock> blocks_;
    std::vector<const MemoryBlock *> by_address_;
    uint64_t pages_ = 0;
    uint64_t largest_unit_pages_ = 1;
};

} // namespace hotsnap::memory
#endif
