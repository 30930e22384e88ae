// SPDX-License-Identifier: GPL-2.0-or-later
//
// Which pages of a block are trapped, and in which order they are loaded in the background. Pure.
#ifndef HOTSNAP_RESTORE_LOAD_PLAN_H
#define HOTSNAP_RESTORE_LOAD_PLAN_H

#include "restore/image_index.h"

#include <cstdint>
#include <functional>
#include <vector>

namespace hotsnap::memory {

struct PageSpan {
    uint64_t first = 0; // page of the block
    uint64_t count = 0;
    bool operator==(const PageSpan &) const = default;
};

// The fewest spans that hold all stored pages and leave out every run of `least_gap` or more pages
// that are not stored. Each span splits a mapping of the program, of which the kernel allows a
// limited number: when there would be more than `most` spans (at least 1), longer gaps are taken
// in, too.
std::vector<PageSpan> trapped_spans(const ImageBlock &block, uint64_t least_gap, size_t most);

// The spans made longer until they begin and end on units of so many pages, of a block of `pages`,
// whose last unit may be short; those that touch are one.
std::vector<PageSpan> in_units(const std::vector<PageSpan> &spans, uint64_t unit, uint64_t pages);

// Calls `step` for each run of pages of one kind (stored, or zero) in the span, of at most `most`
// pages, in the order of the file; ends early when it returns false, and returns that.
bool each_run(const ImageBlock &block, const PageSpan &span, uint64_t most,
              const std::function<bool(const PageSpan &run, bool stored)> &step);

// The longest run of pages of one kind around `page`, within `limits`.
PageSpan run_around(const ImageBlock &block, uint64_t page, const PageSpan &limits);

} // namespace hotsnap::memory
#endif
