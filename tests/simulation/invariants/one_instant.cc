// SPDX-License-Identifier: GPL-2.0-or-later
#include "invariants.h"

#include <algorithm>

namespace hotsnap::sim {

// Members talk outside, where nobody sees it: so each write may be the effect of any write before.
Violations one_instant(const Config &, const Ledger &ledger) {
    Violations violations;
    for (const auto &[name, run] : ledger.runs) {
        if (!run.barrier || !run.published) {
            continue;
        }
        uint64_t first_left_out = UINT64_MAX, last_taken = 0;
        for (const Write &write : ledger.writes) {
            const auto at = run.switches.find(write.by);
            if (at == run.switches.end()) {
                continue;
            }
            if (write.number <= at->second) {
                last_taken = std::max(last_taken, write.number);
            } else {
                first_left_out = std::min(first_left_out, write.number);
            }
        }
        if (last_taken > first_left_out) {
            violations.push_back("one_instant: run " + name + " has write " +
                                 std::to_string(last_taken) + ", and lacks write " +
                                 std::to_string(first_left_out) + ", which came before");
        }
        if (run.switches.size() != run.members.size()) {
            violations.push_back("one_instant: run " + name +
                                 " is published, and not all of its members have switched");
        }
    }
    for (const std::string &what : ledger.still_held) {
        violations.push_back("one_instant: " + what);
    }
    return violations;
}

} // namespace hotsnap::sim
