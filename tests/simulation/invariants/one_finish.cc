// SPDX-License-Identifier: GPL-2.0-or-later
#include "invariants.h"

namespace hotsnap::sim {

namespace {

constexpr uint64_t slot_us = 2100; // of the simulated copy
// A copy may have ended before it could hear of an instant so near, or of one that was moved.
constexpr uint64_t shortest_us = 300'000;

} // namespace

Violations one_finish(const Config &, const Ledger &ledger) {
    Violations violations;
    for (const auto &[name, run] : ledger.runs) {
        if (!run.published || run.duration_us < shortest_us || run.delay_us != 0 ||
            ledger.durations_changed.contains(name)) {
            continue;
        }
        for (const std::string &member : run.named) {
            const auto incarnation = run.members.find(member);
            const auto copied = incarnation == run.members.end()
                                    ? run.copied.end()
                                    : run.copied.find(incarnation->second);
            if (copied == run.copied.end()) {
                continue; // of its copy nothing is known
            }
            const auto error = run.clock_error_us.find(incarnation->second);
            const uint64_t tolerance =
                (error == run.clock_error_us.end() ? 0 : error->second) + slot_us;
            const uint64_t at = copied->second.at_us;
            const bool early = at + tolerance < run.finish_us;
            const bool late = copied->second.on_time && at > run.finish_us + tolerance;
            if (early || late) {
                violations.push_back("one_finish: " + member + " ended its copy at " +
                                     std::to_string(at) + ", and all were to end at " +
                                     std::to_string(run.finish_us) + ", run " + name);
            }
        }
    }
    return violations;
}

} // namespace hotsnap::sim
