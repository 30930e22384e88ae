// SPDX-License-Identifier: GPL-2.0-or-later
//
// A model of a background copy, on a clock of its own: a guest's memory, a guest that writes,
// storage with a buffer before it, a thread that wakes up late. For tests of the plan (pacer.h).
#pragma once

#include "save/pacer.h"

#include <cstdint>
#include <functional>
#include <vector>

namespace hotsnap::memory::test {

enum class Content : uint8_t { absent, zero, data };

struct CopyModel {
    static constexpr uint64_t group = 16; // pages, all of one content

    std::vector<Content> groups;
    double faults_per_s = 0;    // each saves a group anywhere
    uint64_t saved_at_once = 0; // groups that the guest has saved by the time of the first step
    double page_ns = 1000;      // to read a page of data and stage it
    double zero_ns = 300;
    double storage_ns = 2300; // of a page
    uint64_t staging = 8192;  // pages that storage may be behind
    uint64_t stall_begin = 0;
    uint64_t stall_end = 0;   // storage does nothing from the one to the other
    uint64_t slower_from = 0; // from here on, unless 0, storage takes twice as long
    uint64_t late_ns = 0;     // a wait ends up to so much late
    uint64_t seed = 1;

    // What the copier asks. `next` may be called again before a wait is over.
    std::function<Pacer::Step(const PagesLeft &left, uint64_t now)> next;
    std::function<void(const ChunkDone &chunk, uint64_t now)> done;

    struct Chunk {
        uint64_t begin;
        uint64_t data;
    };
    struct Result {
        uint64_t last_saved = 0;
        bool last_by_copier = false;
        std::vector<Chunk> chunks;
    };

    // From `start` on, until every page is saved.
    Result run(uint64_t start) const;

    // The least time in which storage and copier could do it.
    double least_ns() const;
};

} // namespace hotsnap::memory::test
