// SPDX-License-Identifier: GPL-2.0-or-later
#include "invariants.h"

namespace hotsnap::sim {

namespace {

void check_snapshot(const Run &run, Violations &violations) {
    const auto complain = [&](const std::string &what) {
        violations.push_back("agreement: run " + run.name + ": " + what);
    };
    if (!run.published) {
        if (!run.committed.empty()) {
            complain("committed by a member, but never published");
        }
        return;
    }
    if (!run.aborted.empty()) {
        complain("published, but undone by a member");
    }
    for (const std::string &name : run.named) {
        const auto member = run.members.find(name);
        if (member == run.members.end() || !run.complete.contains(member->second)) {
            complain("published, but the part of " + name + " was not complete");
        }
    }
    if (run.named.size() != run.members.size()) {
        complain("published with other members than were asked");
    }
}

void check_restore(const Run &run, Violations &violations) {
    for (const auto &[name, member] : run.members) {
        if (!run.started.empty() && !run.loaded.contains(member)) {
            violations.push_back("agreement: run " + run.name + ": a member was started before " +
                                 name + " had loaded");
        }
        if (!run.committed.empty() && !run.started.contains(member)) {
            violations.push_back("agreement: run " + run.name + ": restored, but " + name +
                                 " was not started");
        }
    }
}

} // namespace

Violations agreement(const Config &, const Ledger &ledger) {
    Violations violations;
    for (const auto &[name, run] : ledger.runs) {
        if (run.restore) {
            check_restore(run, violations);
        } else {
            check_snapshot(run, violations);
        }
    }
    return violations;
}

} // namespace hotsnap::sim
