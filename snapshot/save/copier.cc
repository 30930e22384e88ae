// SPDX-License-Identifier: GPL-2.0-or-later
#include "save/copier.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace hotsnap::memory {

namespace {

// The range of one huge mapping of anonymous memory, so that releasing a chunk does not split it.
constexpr uint64_t chunk_bytes = 2 << 20;
constexpr uint64_t chunk_pages = chunk_bytes / page_bytes;

} // namespace

void Copier::run() {
    for (const MemoryBlock &block : memory_.blocks()) {
        for (uint64_t first = 0; first < block.pages();) {
            const PageRun chunk{&block, first, chunk_at(block, first)};
            limit_.wait();
            const std::lock_guard lock(copying_);
            if (stopping_) {
                return;
            }
            copy(chunk);
            first += chunk.count;
        }
    }
    // Each page is claimed, or is on its way from the kernel; neither takes long.
    while (parts_.ledger.saved_pages() < parts_.ledger.pages() && !stopping_) {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
}

void Copier::stop() {
    stopping_ = true;
    const std::lock_guard lock(copying_);
}

// Number of pages from `first` to the next boundary.
uint64_t Copier::chunk_at(const MemoryBlock &block, uint64_t first) const {
    const uint64_t left = block.pages() - first;
    if (block.by_unit()) {
        return std::min(block.unit_pages(), left);
    }
    uint64_t skew = reinterpret_cast<uint64_t>(block.host) / page_bytes % chunk_pages;
    if (skew % group_pages != 0) {
        skew = 0; // no chunk could begin on a group and on a boundary
    }
    return std::min(chunk_pages - (first + skew) % chunk_pages, left);
}

void Copier::copy(const PageRun &chunk) {
    std::vector<bool> absent;
    if (!chunk.block->by_unit()) {
        absent.resize(chunk.count);
        parts_.reader.find_absent(chunk, absent);
    }
    const uint64_t before = saver_.staged_bytes();
    if (!saver_.save(chunk, absent, Manner::background, PageSaver::Wanted{})) {
        return; // closed: stopping
    }
    saver_.release(chunk);
    saver_.flush();
    limit_.spend(saver_.staged_bytes() - before);
}

} // namespace hotsnap::memory
