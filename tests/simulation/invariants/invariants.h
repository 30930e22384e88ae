// SPDX-License-Identifier: GPL-2.0-or-later
// What must hold of every simulation, each in a file of its own. They return violations, as
// "invariant: what", and read the ledger only.
#ifndef HOTSNAP_SIM_INVARIANTS_H
#define HOTSNAP_SIM_INVARIANTS_H

#include <string>
#include <vector>

#include "../config.h"
#include "../ledger.h"

namespace hotsnap::sim {

using Violations = std::vector<std::string>;

// Of each published cluster snapshot: what a member received before its cut was sent before the
// sender's cut.
Violations no_orphans(const Config &config, const Ledger &ledger);

// Of each published cluster snapshot: what was sent before the sender's cut and not received before
// the receiver's is in the record, or declared lost; and nothing else is in the record.
Violations channel_exact(const Config &config, const Ledger &ledger);

// Frames of a pair arrive in the order they were sent, once, and as they were sent.
Violations delivery(const Config &config, const Ledger &ledger);

// All members commit, or none: no part of a published bundle is ever undone, nothing is committed
// that is not published, and a restore starts all members or none.
Violations agreement(const Config &config, const Ledger &ledger);

// Every command ends, and then all members are idle, whatever happened.
Violations liveness(const Config &config, const Ledger &ledger);

// A member's machine never does two things at once: no task beside another, nor beside the cut.
Violations one_at_a_time(const Config &config, const Ledger &ledger);

} // namespace hotsnap::sim
#endif
