// SPDX-License-Identifier: GPL-2.0-or-later
// The difference between the clocks of two hosts, from one question and its answer (the exchange of
// NTP, RFC 5905, section 8). CLOCK_MONOTONIC counts from the boot of each host, so differences of
// days are ordinary. Times of a member are what it claims: the arithmetic is modulo 2^64.
#ifndef HOTSNAP_COORDINATOR_CLOCK_OFFSET_H
#define HOTSNAP_COORDINATOR_CLOCK_OFFSET_H

#include <cstdint>

namespace hotsnap::cluster {

struct ClockOffset {
    uint64_t us = 0;       // their clock minus ours, modulo 2^64
    uint64_t error_us = 0; // at most, if the answer is true: half of the time on the way

    // The question left at `sent` and came at `received`; the answer left at `replied` and came at
    // `now`. Sent and now are of our clock, the others of theirs.
    static ClockOffset measured(uint64_t sent, uint64_t received, uint64_t replied, uint64_t now) {
        const uint64_t there = replied - received;
        const uint64_t away = now - sent;
        const uint64_t on_the_way = away > there ? away - there : 0;
        return {received - (sent + on_the_way / 2), on_the_way - on_the_way / 2};
    }

    uint64_t theirs(uint64_t ours) const { return ours + us; }
    uint64_t ours(uint64_t theirs) const { return theirs - us; }
};

} // namespace hotsnap::cluster
#endif
