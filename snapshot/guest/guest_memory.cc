// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/guest_memory.h"

#include "base/error.h"

#include <algorithm>
#include <bit>

namespace hotsnap::memory {

namespace {

uint64_t address_of(const MemoryBlock &block) {
    return reinterpret_cast<uint64_t>(block.host);
}

void check(const MemoryBlock &block) {
    const auto reject = [&](const char *why) {
        throw Error("memory block \"" + block.idstr + "\": " + why);
    };
    if (block.idstr.empty() || block.idstr.size() > 255) {
        reject("its name must have 1 to 255 bytes");
    }
    if (!std::has_single_bit(block.page_size) || block.page_size < page_bytes) {
        reject("its page size must be a power of two, at least 4096");
    }
    if (address_of(block) % block.page_size != 0) {
        reject("its address must be a multiple of its page size");
    }
    if (block.length % page_bytes != 0) {
        reject("its length must be a multiple of 4096");
    }
}

} // namespace

GuestMemory::GuestMemory(std::vector<MemoryBlock> blocks) : blocks_(std::move(blocks)) {
    std::erase_if(blocks_, [](const MemoryBlock &block) { return block.length == 0; });
    if (blocks_.empty()) {
        throw Error("there is no memory to save: pass at least one block that is not empty");
    }
    for (MemoryBlock &block : blocks_) {
        check(block);
        block.first_page = pages_;
        pages_ += block.pages();
        largest_unit_pages_ = std::max(largest_unit_pages_, block.unit_pages());
        by_address_.push_back(&block);
    }
    std::ranges::sort(by_address_, {}, [](const MemoryBlock *b) { return address_of(*b); });
    for (size_t i = 1; i < by_address_.size(); i++) {
        const MemoryBlock &before = *by_address_[i - 1];
        if (address_of(before) + before.length > address_of(*by_address_[i])) {
            throw Error("memory blocks \"" + before.idstr + "\" and \"" + by_address_[i]->idstr +
                        "\" overlap");
        }
    }
}

const MemoryBlock &GuestMemory::block_of_page(uint64_t number) const {
    const auto next = std::ranges::upper_bound(blocks_, number, {}, &MemoryBlock::first_page);
    return *std::prev(next);
}

const MemoryBlock *GuestMemory::block_of_address(uint64_t address) const {
    const auto next = std::ranges::upper_bound(by_address_, address, {},
                                               [](const MemoryBlock *b) { return address_of(*b); });
    if (next == by_address_.begin()) {
        return nullptr;
    }
    const MemoryBlock *block = *std::prev(next);
    return address - address_of(*block) < block->mapped_length() ? block : nullptr;
}

PageRun GuestMemory::aligned_run(const MemoryBlock &block, uint64_t page, uint64_t pages) {
    if (block.by_unit()) {
        pages = block.unit_pages();
    }
    const uint64_t first = page & ~(pages - 1);
    return {&block, first, std::min(pages, block.pages() - first)};
}

} // namespace hotsnap::memory
