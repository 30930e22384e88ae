// SPDX-License-Identifier: GPL-2.0-or-later
#include "invariants.h"

namespace hotsnap::sim {

Violations one_at_a_time(const Config &, const Ledger &ledger) {
    Violations violations;
    for (const std::string &what : ledger.overlaps) {
        violations.push_back("one_at_a_time: " + what);
    }
    return violations;
}

} // namespace hotsnap::sim
