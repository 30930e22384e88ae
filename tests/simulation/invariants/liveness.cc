// SPDX-License-Identifier: GPL-2.0-or-later
#include "invariants.h"

namespace hotsnap::sim {

Violations liveness(const Config &, const Ledger &ledger) {
    Violations violations;
    for (const std::string &who : ledger.not_idle) {
        violations.push_back("liveness: at the end, " + who);
    }
    if (ledger.finished + ledger.initiators_crashed != ledger.commands) {
        violations.push_back("liveness: " + std::to_string(ledger.commands) + " commands, but " +
                             std::to_string(ledger.finished) + " finished and " +
                             std::to_string(ledger.initiators_crashed) +
                             " were lost with their initiator");
    }
    return violations;
}

} // namespace hotsnap::sim
