// SPDX-License-Identifier: GPL-2.0-or-later
// A cluster snapshot (docs/formats/protocol.md).
//
// Initiator: prepare | install | arm | (uncolored frames arrive) | snapshot | transient-fin
//            | full | publish
//
// Peer:  preparing > prepared --INSTALL--> installing > installed --ARM--> arming
//        > armed --SNAPSHOT or a red frame--> cutting > cut --ALL_TRANSIENT_SNAP_FIN--> draining
//        (> closing) > drained --COLORING_END--> copying > promised --ALL_FULL_SNAP_FIN--> over
//
// ">" is local work done and reported. FULL_SNAP_FIN is a promise: from then on only the initiator
// decides whether this member's files are needed.
//
//   before FULL_SNAP_FIN   initiator lost or local failure  -> abort alone
//   after it               initiator lost                   -> in doubt: keep all, VM runs on
//                          local failure                    -> tell the initiator, wait
//
// The promise waits for COLORING_END, even when this member's part is complete earlier. A member in
// doubt goes natural. Had it promised while another member still recorded, its frames, sent after
// its cut, would be taken there for channel state of a bundle that is published all the same.
//
// The decision is member::Published: before it nothing exists under the bundle's name. All members'
// files are durable by then, so to tell the members is courtesy.
#ifndef HOTSNAP_COORDINATOR_SNAPSHOT_RUN_H
#define HOTSNAP_COORDINATOR_SNAPSHOT_RUN_H

#include "run.h"

namespace hotsnap::cluster {

std::unique_ptr<InitiatorRun> make_snapshot_initiator(InitiatorEngine &engine);
std::unique_ptr<PeerRun> make_snapshot_peer(const Message &opening, PeerEngine &engine);

inline constexpr PeerRunKind snapshot_peer = {
    [](const Message &message) { return std::holds_alternative<Prepare>(message); },
    make_snapshot_peer};

} // namespace hotsnap::cluster
#endif
