// SPDX-License-Identifier: GPL-2.0-or-later
#include "access/access_log.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace hotsnap::memory {

namespace {

constexpr uint64_t page_bits = 40;
constexpr uint64_t most_ms = (uint64_t{1} << (64 - page_bits)) - 2;

} // namespace

AccessLog::AccessLog(size_t most)
    : most_(most), notes_(static_cast<std::atomic<uint64_t> *>(std::calloc(most, sizeof(uint64_t))),
                          &std::free) {
    static_assert(sizeof(std::atomic<uint64_t>) == sizeof(uint64_t));
    if (!notes_) {
        throw std::bad_alloc();
    }
}

void AccessLog::note(uint64_t page, uint64_t now_ns) {
    // Looked at first, so that the number does not wrap around after a long time.
    if (page >> page_bits != 0 || next_.load(std::memory_order_relaxed) >= most_) {
        return;
    }
    const size_t at = next_.fetch_add(1, std::memory_order_relaxed);
    if (at >= most_) {
        return;
    }
    const uint64_t began = began_ns_.load(std::memory_order_relaxed);
    const uint64_t ms = began == 0 || now_ns < began ? 0 : (now_ns - began) / 1'000'000;
    notes_[at].store((std::min(ms, most_ms) << page_bits | page) + 1, std::memory_order_relaxed);
}

std::vector<Access> AccessLog::accesses() const {
    std::vector<Access> found;
    const size_t end = std::min(most_, next_.load(std::memory_order_relaxed));
    for (size_t i = 0; i < end; i++) {
        if (const uint64_t note = notes_[i].load(std::memory_order_relaxed); note != 0) {
            found.push_back({(note - 1) & ((uint64_t{1} << page_bits) - 1),
                             static_cast<uint32_t>((note - 1) >> page_bits)});
        }
    }
    return found;
}

} // namespace hotsnap::memory
