// SPDX-License-Identifier: GPL-2.0-or-later
// A cluster restore (docs/formats/protocol.md).
//
// Initiator: load | start
//
// Peer:  loading > loaded --START--> starting > started --RESTORED--> over
//
// ">" is local work done and reported. START comes when all members have loaded. From then on other
// members may run already, so a member that has lost its initiator starts, and runs on.
#ifndef HOTSNAP_COORDINATOR_RESTORE_RUN_H
#define HOTSNAP_COORDINATOR_RESTORE_RUN_H

#include "run.h"

namespace hotsnap::cluster {

std::unique_ptr<InitiatorRun> make_restore_initiator(InitiatorEngine &engine);
std::unique_ptr<PeerRun> make_restore_peer(const Message &opening, PeerEngine &engine);

inline constexpr PeerRunKind restore_peer = {
    [](const Message &message) { return std::holds_alternative<Restore>(message); },
    make_restore_peer};

} // namespace hotsnap::cluster
#endif
