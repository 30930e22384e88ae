// SPDX-License-Identifier: GPL-2.0-or-later
//
// The pages written since the last protect pass, which are therefore unprotected. The fault thread
// adds to the list; arming takes from it.
//
// The list can be given a limit: the fault thread asks for room before it takes more faults, so
// that the list stays bounded however fast the guest writes.
#ifndef HOTSNAP_GUEST_DIRTY_LIST_H
#define HOTSNAP_GUEST_DIRTY_LIST_H

#include "guest/guest_memory.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <vector>

namespace hotsnap::memory {

class DirtyList {
  public:
    static constexpr size_t no_limit = ~size_t{0};

    void add(const std::vector<PageRun> &runs);
    std::vector<PageRun> take();
    size_t size() const;

    // wait_room waits while the list has `limit` runs or more.
    void set_limit(size_t limit);
    void wait_room();

    // Waits until there are more than `runs`, or stop() was called, or the time is over.
    void wait_above(size_t runs, std::chrono::nanoseconds most = std::chrono::hours(1));

    // Lifts the limit and ends all waits, now and later.
    void stop();

  private:
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<PageRun> runs_;
    size_t limit_ = no_limit;
    bool stopped_ = false;
};

// Sorts the runs, removes duplicates, and joins runs of one block with at most `gap` pages between
// them as long as the result has at most `most` pages. `pages`: the number of different pages.
std::vector<PageRun> coalesce(std::vector<PageRun> runs, uint64_t gap, uint64_t most,
                              uint64_t &pages);

} // namespace hotsnap::memory
#endif
