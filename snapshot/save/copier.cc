// SPDX-License-Identifier: GPL-2.0-or-later
#include "save/copier.h"

#include "base/clock.h"
#include "os/thread.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace hotsnap::memory {

namespace {

// The range of one huge mapping of anonymous memory, so that releasing a chunk does not split it.
constexpr uint64_t chunk_bytes = 2 << 20;
constexpr uint64_t chunk_pages = chunk_bytes / page_bytes;

} // namespace

bool Copier::round(const std::atomic<bool> &ending) {
    rounds_ = true;
    for (const MemoryBlock &block : memory_.blocks()) {
        for (uint64_t first = 0; first < block.pages();) {
            const PageRun chunk{&block, first, whole_chunk_at(block, first)};
            first += chunk.count;
            if (!any_unsaved(block, chunk.first, chunk.count)) {
                continue;
            }
            if (!pace_.wait_for_bandwidth(ending)) {
                return false;
            }
            const std::lock_guard lock(copying_);
            if (stopping_ || !copy(chunk, Manner::precopy)) {
                return false;
            }
        }
    }
    return !ending;
}

uint64_t Copier::run() {
    ask_for_exact_timers();
    for (const MemoryBlock &block : memory_.blocks()) {
        if (!copy_block(block)) {
            return now_ns();
        }
    }
    // Each page is claimed, or is on its way from the kernel; neither takes long.
    while (parts_.ledger.saved_pages() < parts_.ledger.pages() && !stopping_) {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    return pace_.hold();
}

// False after stop().
bool Copier::copy_block(const MemoryBlock &block) {
    for (uint64_t first = 0; first < block.pages();) {
        // Nothing is to be done for pages that write faults have saved: who saved them releases
        // them. To ask which are absent would take more time than all the rest of a step.
        if (const uint64_t whole = whole_chunk_at(block, first);
            !any_unsaved(block, first, whole)) {
            if (rounds_ && !release({&block, first, whole})) {
                return false;
            }
            first += whole;
            continue;
        }
        if (pace_.deadline() != 0 && !survey_memory()) {
            return false;
        }
        const uint64_t pages = pace_.wait([&] { return survey_.left(block.first_page + first); });
        const std::lock_guard lock(copying_);
        if (pages == 0 || stopping_) {
            return false;
        }
        const PageRun chunk = chunk_at(block, first, pages);
        copy(chunk, Manner::background);
        first += chunk.count;
    }
    return true;
}

// Pages that were saved before the cut. False after stop().
bool Copier::release(const PageRun &chunk) {
    const std::lock_guard lock(copying_);
    if (stopping_) {
        return false;
    }
    saver_.release(chunk);
    return true;
}

// False after stop().
bool Copier::survey_memory() {
    while (!survey_.complete()) {
        const std::lock_guard lock(copying_);
        if (stopping_) {
            return false;
        }
        survey_.look();
    }
    return true;
}

void Copier::stop() {
    stopping_ = true;
    const std::lock_guard lock(copying_);
}

// Number of pages from `first` to the next boundary.
uint64_t Copier::whole_chunk_at(const MemoryBlock &block, uint64_t first) const {
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

bool Copier::any_unsaved(const MemoryBlock &block, uint64_t first, uint64_t count) const {
    uint64_t page = block.first_page + first;
    const uint64_t end = page + count;
    while (page < end && !parts_.ledger.unsaved(page)) {
        page++;
    }
    return page < end;
}

// As many groups, at least one, as hold at most so many pages that have to be read. Only close to a
// deadline is that less than the whole, and huge mappings are split.
PageRun Copier::chunk_at(const MemoryBlock &block, uint64_t first, uint64_t pages) const {
    const uint64_t whole = whole_chunk_at(block, first);
    if (block.by_unit() || pages >= whole) {
        return {&block, first, whole};
    }
    uint64_t count = 0;
    for (uint64_t present = 0; count < whole; count += group_pages) {
        const uint64_t group = std::min<uint64_t>(group_pages, whole - count);
        present += survey_.present(block.first_page + first + count, group);
        if (present > pages && count > 0) {
            break;
        }
    }
    return {&block, first, std::min(count, whole)};
}

// False when the pool was closed: stopping.
bool Copier::copy(const PageRun &chunk, Manner manner) {
    const uint64_t begin = now_ns();
    std::vector<bool> absent;
    if (!chunk.block->by_unit()) {
        absent.resize(chunk.count);
        parts_.reader.find_absent(chunk, absent);
    }
    const PageSaver::Tally before = saver_.tally();
    if (!saver_.save(chunk, absent, manner, PageSaver::Wanted{})) {
        return false;
    }
    if (manner != Manner::precopy) {
        saver_.release(chunk);
    }
    saver_.flush();
    const PageSaver::Tally &after = saver_.tally();
    const PageSaver::Tally done{after.saved - before.saved, after.read - before.read,
                                after.data - before.data};
    if (manner != Manner::precopy) {
        survey_.passed(done);
    }
    pace_.done({done.saved - std::min(done.saved, done.read), done.read - done.data, done.data,
                now_ns() - begin});
    return true;
}

} // namespace hotsnap::memory
