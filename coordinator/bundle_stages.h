// SPDX-License-Identifier: GPL-2.0-or-later
// The stages that all runs with a bundle as their result have in common: the first one, the last
// two, and the number of the epoch. Engine, request and record must outlive the stages.
#ifndef HOTSNAP_COORDINATOR_BUNDLE_STAGES_H
#define HOTSNAP_COORDINATOR_BUNDLE_STAGES_H

#include <cstdint>
#include <functional>
#include <string>

#include "run.h"
#include "wire/manifest.h"

namespace hotsnap::cluster {

// Keeps what each member says of itself.
Stage prepare_stage(const Request &request, RunRecord &record);

// The number that comes next among all snapshots of the members, which PREPARED told of. Returns
// why the run must be aborted, or nothing.
std::string next_epoch(const RunRecord &record, uint64_t &epoch);

// `begin` tells the members that the cut is over; each answers once its part is durable.
Stage full_stage(const Request &request, RunRecord &record, std::function<void()> begin);

// Decides the run: before member::Published nothing exists under the bundle's name.
Stage publish_stage(InitiatorEngine &engine, std::function<Json()> manifest);

} // namespace hotsnap::cluster
#endif
