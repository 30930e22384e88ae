// SPDX-License-Identifier: GPL-2.0-or-later
#include "restore/load_plan.h"

#include <algorithm>
#include <bit>

namespace hotsnap::memory {

namespace {

// The first page at or after `page` that is stored, or is not; `end` when there is none before it.
uint64_t next_page(const ImageBlock &block, uint64_t page, uint64_t end, bool stored) {
    while (page < end) {
        const uint64_t word = stored ? block.bitmap[page / 64] : ~block.bitmap[page / 64];
        const uint64_t rest = word >> (page % 64);
        if (rest != 0) {
            return std::min(end, page + static_cast<uint64_t>(std::countr_zero(rest)));
        }
        page = (page / 64 + 1) * 64;
    }
    return end;
}

std::vector<PageSpan> spans_with_gap(const ImageBlock &block, uint64_t least_gap) {
    std::vector<PageSpan> spans;
    const uint64_t end = block.pages();
    for (uint64_t at = next_page(block, 0, end, true); at < end;) {
        const uint64_t stop = next_page(block, at, end, false);
        if (!spans.empty() && at - (spans.back().first + spans.back().count) < least_gap) {
            spans.back().count = stop - spans.back().first;
        } else {
            spans.push_back({at, stop - at});
        }
        at = next_page(block, stop, end, true);
    }
    return spans;
}

} // namespace

std::vector<PageSpan> trapped_spans(const ImageBlock &block, uint64_t least_gap, size_t most) {
    std::vector<PageSpan> spans = spans_with_gap(block, least_gap);
    while (spans.size() > most) {
        least_gap = std::max<uint64_t>(1, least_gap) * 2;
        spans = spans_with_gap(block, least_gap);
    }
    return spans;
}

std::vector<PageSpan> in_units(const std::vector<PageSpan> &spans, uint64_t unit, uint64_t pages) {
    std::vector<PageSpan> found;
    for (const PageSpan &span : spans) {
        const uint64_t first = span.first / unit * unit;
        const uint64_t end = std::min(pages, (span.first + span.count + unit - 1) / unit * unit);
        if (!found.empty() && first <= found.back().first + found.back().count) {
            found.back().count = end - found.back().first;
        } else {
            found.push_back({first, end - first});
        }
    }
    return found;
}

bool each_run(const ImageBlock &block, const PageSpan &span, uint64_t most,
              const std::function<bool(const PageSpan &run, bool stored)> &step) {
    const uint64_t end = span.first + span.count;
    for (uint64_t at = span.first; at < end;) {
        const bool stored = block.stored(at);
        const uint64_t stop = next_page(block, at, std::min(end, at + most), !stored);
        if (!step({at, stop - at}, stored)) {
            return false;
        }
        at = stop;
    }
    return true;
}

PageSpan run_around(const ImageBlock &block, uint64_t page, const PageSpan &limits) {
    const bool stored = block.stored(page);
    uint64_t first = page;
    while (first > limits.first && block.stored(first - 1) == stored) {
        first--;
    }
    return {first, next_page(block, page, limits.first + limits.count, !stored) - first};
}

} // namespace hotsnap::memory
