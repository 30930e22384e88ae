// SPDX-License-Identifier: GPL-2.0-or-later
#include "runs.h"

#include "barrier_run.h"
#include "restore_run.h"
#include "snapshot_run.h"

namespace hotsnap::cluster {

MakeInitiatorRun initiator_run(Request::Kind kind) {
    switch (kind) {
    case Request::Kind::snapshot:
        return make_snapshot_initiator;
    case Request::Kind::barrier:
        return make_barrier_initiator;
    case Request::Kind::restore:
        return make_restore_initiator;
    }
    throw BadInput("a request of a kind that is not known");
}

std::span<const PeerRunKind> peer_runs() {
    static constexpr PeerRunKind kinds[] = {snapshot_peer, barrier_peer, restore_peer};
    return kinds;
}

} // namespace hotsnap::cluster
