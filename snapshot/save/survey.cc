// SPDX-License-Identifier: GPL-2.0-or-later
#include "save/survey.h"

#include "base/clock.h"

#include <algorithm>

namespace hotsnap::memory {

namespace {

constexpr uint64_t look_pages = 512;

// The gap between samples varies, or a pattern in memory could fit it. On average every 32nd page
// that is present is a sample.
constexpr uint32_t gap_mask = 63;

// How often a count is worth its time.
constexpr uint64_t count_share = 100;

// Unsaved pages count as data until the copier has seen some.
constexpr double first_guess_pages = 64;

} // namespace

Survey::Survey(const GuestMemory &memory, const PageLedger &ledger, const PageReader &reader)
    : memory_(memory), ledger_(ledger), reader_(reader) {}

void Survey::look() {
    if (present_.empty()) {
        present_.resize(memory_.pages() / word_pages + 1);
        regions_.resize(memory_.pages() / region_pages + 1);
    }
    const MemoryBlock &block = memory_.blocks()[block_];
    const PageRun run{&block, page_, std::min(look_pages, block.pages() - page_)};
    std::vector<bool> absent(run.count);
    if (!block.by_unit()) {
        reader_.find_absent(run, absent);
    }
    note(run, absent);
    page_ += run.count;
    if (page_ == block.pages()) {
        block_++;
        page_ = 0;
    }
}

void Survey::note(const PageRun &run, const std::vector<bool> &absent) {
    for (uint64_t i = 0; i < run.count; i++) {
        const uint64_t number = run.number() + i;
        // Of a saved page nothing is asked any more; it may be absent, or change now.
        if (absent[i] || !ledger_.unsaved(number)) {
            continue;
        }
        present_[number / word_pages] |= uint64_t{1} << number % word_pages;
        if (until_sample_ > 0) {
            until_sample_--;
            continue;
        }
        random_ = random_ * 1664525 + 1013904223;
        until_sample_ = random_ >> 16 & gap_mask;
        Region &region = regions_[number / region_pages];
        region.sampled++;
        region.zero += reader_.looks_zero(*run.block, run.first + i);
    }
}

void Survey::count(uint64_t position) {
    left_ = {};
    unsaved_ = static_cast<double>(ledger_.pages() - ledger_.saved_pages());
    Region before; // for a region without a sample
    constexpr uint64_t region_words = region_pages / word_pages;
    const uint64_t first = position / word_pages;
    uint64_t pages = 0;
    for (uint64_t word = first; word < present_.size(); word++) {
        for (uint64_t bits = present_[word]; bits != 0; bits &= bits - 1) {
            pages +=
                ledger_.unsaved(word * word_pages + static_cast<uint64_t>(std::countr_zero(bits)));
        }
        if (word % region_words != region_words - 1 && word != present_.size() - 1) {
            continue;
        }
        const Region &region = regions_[word / region_words];
        before = region.sampled != 0 ? region : before;
        const double zero =
            before.sampled == 0 ? 0 : static_cast<double>(before.zero) / before.sampled;
        left_.zero += static_cast<double>(pages) * zero;
        left_.data += static_cast<double>(pages) * (1 - zero);
        pages = 0;
    }
    left_.absent = std::max(unsaved_ - left_.present(), 0.0);
}

void Survey::passed(const PageSaver::Tally &pages) {
    tally_.saved += pages.saved;
    tally_.read += pages.read;
    tally_.data += pages.data;
    unsaved_ = std::max(unsaved_ - static_cast<double>(pages.saved), 0.0);
    // Under a trap in which the kernel saves too, some pages that were read are not saved.
    const double absent = static_cast<double>(pages.saved) - static_cast<double>(pages.read);
    left_.absent = std::max(left_.absent - std::max(absent, 0.0), 0.0);
    left_.zero = std::max(left_.zero - static_cast<double>(pages.read - pages.data), 0.0);
    left_.data = std::max(left_.data - static_cast<double>(pages.data), 0.0);
}

PagesLeft Survey::left(uint64_t position) {
    const auto unsaved = static_cast<double>(ledger_.pages() - ledger_.saved_pages());
    if (!complete()) {
        const double data = static_cast<double>(tally_.data) + first_guess_pages;
        const double read = static_cast<double>(tally_.read) + first_guess_pages;
        const double saved = static_cast<double>(tally_.saved) + first_guess_pages;
        return {unsaved * (1 - std::min(read / saved, 1.0)), unsaved * (read - data) / saved,
                unsaved * data / saved};
    }
    const uint64_t now = now_ns();
    if (!counted_ || now >= count_again_ns_) {
        count(position);
        counted_ = true;
        count_again_ns_ = now + (now_ns() - now) * count_share;
    } else if (unsaved < unsaved_) {
        const double kept = unsaved / unsaved_;
        left_ = {left_.absent * kept, left_.zero * kept, left_.data * kept};
        unsaved_ = unsaved;
    }
    return left_;
}

uint64_t Survey::present(uint64_t first, uint64_t count) const {
    uint64_t pages = 0;
    for (uint64_t page = first; page < first + count; page++) {
        const bool absent =
            complete() && (present_[page / word_pages] >> page % word_pages & 1) == 0;
        pages += !absent && ledger_.unsaved(page);
    }
    return pages;
}

} // namespace hotsnap::memory
