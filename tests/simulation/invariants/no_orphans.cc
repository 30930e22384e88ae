// SPDX-License-Identifier: GPL-2.0-or-later
#include "invariants.h"

namespace hotsnap::sim {

Violations no_orphans(const Config &, const Ledger &ledger) {
    Violations violations;
    for (const auto &[name, run] : ledger.runs) {
        if (!run.published) {
            continue;
        }
        for (size_t number = 0; number < ledger.segments.size(); number++) {
            const Segment &segment = ledger.segments[number];
            const auto sender = run.cuts.find(segment.from);
            if (sender == run.cuts.end() || segment.sent_sequence < sender->second.sequence) {
                continue;
            }
            for (const Delivery &delivery : segment.deliveries) {
                const auto receiver = run.cuts.find(delivery.to);
                if (receiver != run.cuts.end() && delivery.sequence < receiver->second.sequence) {
                    violations.push_back("no_orphans: run " + name + ": segment " +
                                         std::to_string(number) +
                                         " was received before the receiver's cut, but sent after "
                                         "the sender's");
                }
            }
        }
    }
    return violations;
}

} // namespace hotsnap::sim
