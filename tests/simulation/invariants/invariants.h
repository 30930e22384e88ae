// SPDX-License-Identifier: GPL-2.0-or-later
// The invariants of every simulation, each in a file of its own. They read only the ledger, and
// return violations, as "invariant: what".
#ifndef HOTSNAP_SIM_INVARIANTS_H
#define HOTSNAP_SIM_INVARIANTS_H

#include <string>
#include <vector>

#include "../config.h"
#include "../ledger.h"

namespace hotsnap::sim {

using Violations = std::vector<std::string>;

// In each published cluster snapshot, all segments that a member received before its cut were sent
// before the sender's cut.
Violations no_orphans(const Config &config, const Ledger &ledger);

// In each published cluster snapshot, all segments sent before the sender's cut and not received
// before the receiver's cut are in the record, or declared lost; nothing else is in the record.
Violations channel_exact(const Config &config, const Ledger &ledger);

// Frames of a pair arrive in the order in which they were sent, once, and unchanged.
Violations delivery(const Config &config, const Ledger &ledger);

// All members commit, or none: no part of a published bundle is ever undone, nothing is committed
// that is not published, and a restore starts all members or none.
Violations agreement(const Config &config, const Ledger &ledger);

// Every command ends, and then all members are idle, after any faults.
Violations liveness(const Config &config, const Ledger &ledger);

// A member's machine never does two things at once: no task beside another, nor beside the cut.
Violations one_at_a_time(const Config &config, const Ledger &ledger);

// In each published snapshot behind a barrier, no write of any member came after one that is not in
// the snapshot; and no member holds its requests for longer than it may.
Violations one_instant(const Config &config, const Ledger &ledger);

// All copies of a published snapshot end at the instant that the manifest names, as far as their
// storage lets them: none before it, and none that could make it after it. The clocks of the
// members differ by no more than the manifest says.
Violations one_finish(const Config &config, const Ledger &ledger);

} // namespace hotsnap::sim
#endif
