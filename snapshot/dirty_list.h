// SPDX-License-Identifier: GPL-2.0-or-later
//
// What was written, and is therefore unprotected, since the last protect pass. Between the fault
// thread, which adds, and arming, which takes.
#pragma once

#include "guest_memory.h"

#include <condition_variable>
#include <functional>
#include <mutex>
#include <vector>

namespace hotsnap {

class DirtyList {
  public:
    void add(const std::vector<PageRun> &runs);
    std::vector<PageRun> take();
    size_t size() const;

    // Waits until there are more than `limit` runs, or done() holds; notify() has it asked again.
    void wait_above(size_t limit, const std::function<bool()> &done);
    void notify();

  private:
    mutable std::mutex mutex_;
    std::condition_variable grown_;
    std::vector<PageRun> runs_;
};

// Sorts, removes what is double, and joins runs of one block with at most `gap` pages between them
// as long as the result has at most `most` pages. `pages`: how many different pages there were.
std::vector<PageRun> coalesce(std::vector<PageRun> runs, uint64_t gap, uint64_t most,
                              uint64_t &pages);

} // namespace hotsnap
