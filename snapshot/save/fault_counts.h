// SPDX-License-Identifier: GPL-2.0-or-later
//
// How many write faults were answered after the cut, and how long each took.
#ifndef HOTSNAP_SAVE_FAULT_COUNTS_H
#define HOTSNAP_SAVE_FAULT_COUNTS_H

#include <atomic>
#include <cstdint>

namespace hotsnap::memory {

struct FaultCounts {
    std::atomic<uint64_t> answered{0};
    std::atomic<uint64_t> us_max{0};
    std::atomic<uint64_t> us_sum{0};

    // Any thread.
    void add(uint64_t us) {
        answered.fetch_add(1, std::memory_order_relaxed);
        us_sum.fetch_add(us, std::memory_order_relaxed);
        uint64_t most = us_max.load(std::memory_order_relaxed);
        while (us > most && !us_max.compare_exchange_weak(most, us, std::memory_order_relaxed)) {
        }
    }
};

} // namespace hotsnap::memory
#endif
