// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/dirty_list.h"

#include <algorithm>

namespace hotsnap::memory {

void DirtyList::add(const std::vector<PageRun> &runs) {
    {
        const std::lock_guard lock(mutex_);
        runs_.insert(runs_.end(), runs.begin(), runs.end());
    }
    changed_.notify_all();
}

std::vector<PageRun> DirtyList::take() {
    std::vector<PageRun> taken;
    {
        const std::lock_guard lock(mutex_);
        taken.swap(runs_);
    }
    changed_.notify_all();
    return taken;
}

size_t DirtyList::size() const {
    const std::lock_guard lock(mutex_);
    return runs_.size();
}

void DirtyList::set_limit(size_t limit) {
    {
        const std::lock_guard lock(mutex_);
        limit_ = limit;
    }
    changed_.notify_all();
}

void DirtyList::wait_room() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return stopped_ || runs_.size() < limit_; });
}

void DirtyList::wait_above(size_t runs, std::chrono::nanoseconds most) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, most, [&] { return stopped_ || runs_.size() > runs; });
}

void DirtyList::stop() {
    {
        const std::lock_guard lock(mutex_);
        stopped_ = true;
    }
    changed_.notify_all();
}

std::vector<PageRun> coalesce(std::vector<PageRun> runs, uint64_t gap, uint64_t most,
                              uint64_t &pages) {
    std::ranges::sort(runs, {}, &PageRun::number);
    std::vector<PageRun> joined;
    uint64_t counted_to = 0; // number of the page after the last one counted
    pages = 0;
    for (const PageRun &run : runs) {
        const uint64_t end = run.number() + run.count;
        if (end > counted_to) {
            pages += end - std::max(counted_to, run.number());
            counted_to = end;
        }
        if (!joined.empty() && joined.back().block == run.block) {
            PageRun &last = joined.back();
            const uint64_t span = std::max(last.count, run.first + run.count - last.first);
            if (span == last.count ||
                (run.first <= last.first + last.count + gap && span <= most)) {
                last.count = span;
                continue;
            }
        }
        joined.push_back(run);
    }
    return joined;
}

} // namespace hotsnap::memory
