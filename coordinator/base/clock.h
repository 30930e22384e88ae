// SPDX-License-Identifier: GPL-2.0-or-later
// CLOCK_MONOTONIC, the clock of every duration and instant that the libraries measure.
#ifndef HOTSNAP_BASE_CLOCK_H
#define HOTSNAP_BASE_CLOCK_H

#include <cstdint>
#include <ctime>

namespace hotsnap {

inline uint64_t now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(t.tv_nsec);
}

// Rounds up, so that no duration above zero reads as zero.
inline uint64_t ns_to_us(uint64_t ns) {
    return (ns + 999) / 1000;
}

} // namespace hotsnap
#endif
