// SPDX-License-Identifier: GPL-2.0-or-later
// The parameters of a simulation. The seed determines all that the user does not set.
#ifndef HOTSNAP_SIM_CONFIG_H
#define HOTSNAP_SIM_CONFIG_H

#include <cstddef>
#include <cstdint>
#include <string>

namespace hotsnap::sim {

// Deliberate mistakes, the negative controls: the invariant beside each must catch it.
enum class Mutation : uint8_t {
    none,
    coloring_off,      // no_orphans
    skip_hold,         // no_orphans: frames for the guest are delivered although held
    broadcast_through, // no_orphans: broadcasts of a red member are sent although held
    lose_record,       // channel_exact: the last recorded frame is missing
    lose_held,         // delivery: held frames are forgotten
    reverse_held,      // delivery: held frames come out backwards
    keep_color,        // delivery: the source octet is not restored
    abort_in_doubt,    // agreement: a member in doubt deletes its files
    mute_abort,        // liveness: a member never reports that it has undone its part
    move_record,       // channel_exact: an abort clears the record while it is written
    deaf_copy,         // one_finish: a copy ends as soon as it can
    foreign_clock,     // one_finish: a member reads the instant by a clock that differs
    deaf_hold,         // one_instant: a member says that it holds, and does not
    late_switch,       // one_instant: a member whose hold has ended switches all the same
    hasty_answer,      // one_at_a_time: a member reports the end of a task that goes on
};

struct Config {
    uint64_t seed = 1;
    size_t members = 0;  // 0: 2 to 8, by the seed
    size_t commands = 0; // cluster snapshots and restores; 0: 3 to 8, by the seed
    Mutation mutation = Mutation::none;
    bool faults = true;
    bool trace = false;

    // Data plane
    double loss = 0;            // of frames on the network
    uint64_t transit_us = 4000; // longest transit of a frame
    uint64_t settle_us = 10'000;
    uint64_t drain_us = 50'000;
    uint64_t frames_per_ms = 20; // of the whole cluster, while a command runs
};

} // namespace hotsnap::sim
#endif
