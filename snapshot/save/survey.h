// SPDX-License-Identifier: GPL-2.0-or-later
//
// What is left for the background copy: how many unsaved pages have data, are zero, or are absent.
//
// A page that is unsaved has not been written since the cut, or it would have been saved (the same
// argument as in page_reader.h; a page that the kernel has saved a moment ago may be an exception,
// and does not matter to an estimate). So the memory is looked at once, and what was seen stays
// true of every page that is still unsaved; the ledger tells which ones are. Which pages are absent
// is seen of each page, at a cost of up to 20 ms a GiB. Which are zero is estimated from a sample,
// at 2 ms a GiB at most; reading all would cost as much as the copy.
//
// The count of the unsaved ones takes time too (a fraction of a millisecond a GiB). It is made
// again as often as costs a hundredth of the time. Between two counts the copier tells what it has
// saved; the rest of what the ledger says was saved is taken to be of all kinds alike.
//
// Of the copier's thread alone.
#ifndef HOTSNAP_SAVE_SURVEY_H
#define HOTSNAP_SAVE_SURVEY_H

#include "guest/page_ledger.h"
#include "save/pacer.h"
#include "save/page_reader.h"
#include "save/page_saver.h"

#include <bit>
#include <cstdint>
#include <vector>

namespace hotsnap::memory {

class Survey {
  public:
    Survey(const GuestMemory &memory, const PageLedger &ledger, const PageReader &reader);

    // Looks at the next stretch of memory, some milliseconds at most. Touches guest memory.
    void look();
    bool complete() const { return block_ == memory_.blocks().size(); }

    // The copier has saved these.
    void passed(const PageSaver::Tally &pages);

    // What is left from the page with the number `position` on; all before it is saved. Until the
    // survey is complete, this is the share of each kind seen by the copier so far.
    PagesLeft left(uint64_t position);

    // How many pages of these (at most group_pages, by number) are unsaved and not absent. All the
    // unsaved ones until the survey is complete.
    uint64_t present(uint64_t first, uint64_t count) const;

  private:
    // Samples are told apart by region, since zero pages lie together.
    struct Region {
        uint16_t sampled = 0;
        uint16_t zero = 0;
    };

    static constexpr uint64_t word_pages = 64;
    static constexpr uint64_t region_pages = 512;

    void note(const PageRun &run, const std::vector<bool> &absent);
    void count(uint64_t position);

    const GuestMemory &memory_;
    const PageLedger &ledger_;
    const PageReader &reader_;
    size_t block_ = 0; // where look() is
    uint64_t page_ = 0;
    uint32_t until_sample_ = 0;
    uint32_t random_ = 1;
    std::vector<uint64_t> present_; // one bit a page, by number
    std::vector<Region> regions_;

    PageSaver::Tally tally_;
    PagesLeft left_; // when so many pages were unsaved:
    double unsaved_ = 0;
    bool counted_ = false; // since the survey is complete
    uint64_t count_again_ns_ = 0;
};

} // namespace hotsnap::memory
#endif
