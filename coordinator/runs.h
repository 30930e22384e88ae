// SPDX-License-Identifier: GPL-2.0-or-later
// The runs that this version knows. A new one needs its line here.
#ifndef HOTSNAP_COORDINATOR_RUNS_H
#define HOTSNAP_COORDINATOR_RUNS_H

#include <span>

#include "run.h"

namespace hotsnap::cluster {

MakeInitiatorRun initiator_run(Request::Kind kind);
std::span<const PeerRunKind> peer_runs();

} // namespace hotsnap::cluster
#endif
