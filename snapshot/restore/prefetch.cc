// SPDX-License-Identifier: GPL-2.0-or-later
#include "restore/prefetch.h"

#include <algorithm>

namespace hotsnap::memory {

namespace {

constexpr uint64_t least_gap = 16; // pages: 64 KiB are read in the time of a seek

} // namespace

void Prefetch::run(const std::function<bool(const AccessMap::Run &)> &load, uint64_t now_ns) {
    began_ns_.store(now_ns, std::memory_order_relaxed);
    for (const AccessMap::Bucket &bucket : map_.buckets()) {
        for (size_t i = 0; i < bucket.runs.size();) {
            AccessMap::Run all = bucket.runs[i];
            uint64_t wanted = all.count;
            for (i++; i < bucket.runs.size(); i++) {
                const AccessMap::Run &next = bucket.runs[i];
                if (next.first - (all.first + all.count) >= least_gap) {
                    break;
                }
                all.count = next.first + next.count - all.first;
                wanted += next.count;
            }
            if (!load(all)) {
                ended_ = true;
                return;
            }
            loaded_.fetch_add(wanted, std::memory_order_relaxed);
        }
    }
    ended_ = true;
}

bool Prefetch::ready(uint64_t now_ns) const {
    if (ended_ || planned_ == 0) {
        return true;
    }
    const uint64_t done = loaded();
    if (window_) {
        return done >= std::min(*window_, planned_);
    }
    const uint64_t began = began_ns_.load(std::memory_order_relaxed);
    if (began == 0 || now_ns <= began || done == 0) {
        return false;
    }
    const double seconds = static_cast<double>(now_ns - began) / 1e9;
    return done >= map_.window(static_cast<double>(done) / seconds);
}

} // namespace hotsnap::memory
