// SPDX-License-Identifier: GPL-2.0-or-later
// An initiator's notes about any run, for the manifest and the result.
#ifndef HOTSNAP_WIRE_RUN_LOG_H
#define HOTSNAP_WIRE_RUN_LOG_H

#include <cstdint>
#include <string>
#include <vector>

namespace hotsnap::cluster {

struct RunLog {
    struct Moment {
        std::string phase;
        uint64_t at_us; // CLOCK_MONOTONIC of the initiator's host
    };

    std::vector<Moment> timeline;
    std::vector<std::string> warnings;
};

} // namespace hotsnap::cluster
#endif
