// SPDX-License-Identifier: GPL-2.0-or-later
// A snapshot of disks behind a barrier: all members hold their disk requests until all hold theirs.
// Only then any of them switches to its overlays. It asks nothing of the network: frames are not
// colored, and members need no packet mediator.
//
// Initiator: prepare | flush | hold | switch | full | publish
//
// Peer:  preparing > prepared --FLUSH--> flushing > flushed --HOLD--> holding > held
//        --SWITCH--> switching > switched --ALL_SWITCHED--> copying > promised
//        --ALL_FULL_SNAP_FIN--> over
//
// ">" is local work done and reported. From FULL_SNAP_FIN on all is as in a snapshot with coloring
// (snapshot_run.h): the promise, the doubt, and the decision by member::Published.
//
// Why the disks are those of one instant, though members may talk by any way that there is, outside
// the cluster, too:
//
//   1. HELD says that no request of this member's guest is in flight, and that none is begun until
//      the member says so. SWITCHED says that it was held without a gap until after the switch: the
//      member's own timer, and all else that ends a hold, has the same thread as the switch, so
//      that either the switch finds the hold, or it is refused (member/local_run_barrier.cc).
//   2. The initiator sends SWITCH when the last HELD has come; call that instant T. A member holds
//      before its HELD, hence before T. It switches after SWITCH, hence after T. So if all say
//      SWITCHED, all held at T.
//   3. A write in a member's snapshot was answered before that member's hold, hence before T. One
//      that is not was issued after its switch, hence after T. So no write in the snapshot, on
//      whatever member, can depend on one that is not.
//
// A member goes on after its own switch and waits for no other: who has not switched still holds.
//
// Why no switch is kept when another member has given its requests free before its own: such a
// member never says SWITCHED. Without the SWITCHED of all there is no ALL_SWITCHED, so no member
// promises, none can be in doubt, and nothing is published. Each one that has switched undoes that:
// by ABORT, or alone when the initiator is lost.
//
// Why nothing stays held: each member has a timer of its own, from the begin of its hold. It asks
// nobody. An ABORT and the loss of the initiator end the hold at once. The initiator's deadline for
// HELD is shorter, so that it ends the run, and names the member that did not answer.
#ifndef HOTSNAP_COORDINATOR_BARRIER_RUN_H
#define HOTSNAP_COORDINATOR_BARRIER_RUN_H

#include "run.h"

namespace hotsnap::cluster {

std::unique_ptr<InitiatorRun> make_barrier_initiator(InitiatorEngine &engine);
std::unique_ptr<PeerRun> make_barrier_peer(const Message &opening, PeerEngine &engine);

inline constexpr PeerRunKind barrier_peer = {
    [](const Message &message) { return std::holds_alternative<PrepareBarrier>(message); },
    make_barrier_peer};

} // namespace hotsnap::cluster
#endif
