// SPDX-License-Identifier: GPL-2.0-or-later
// Local work and its answers as hotsnap/coordinator.h has them, in JSON, from and to the types of
// member/work.h.
#ifndef HOTSNAP_SIM_LOCAL_JSON_H
#define HOTSNAP_SIM_LOCAL_JSON_H

#include <optional>
#include <utility>

#include "hotsnap/coordinator.h"
#include "member/work.h"

namespace hotsnap::sim {

// None: the action is no local work.
std::optional<member::LocalWork> work_of(const hs_action &action);

// None: the coordinator has no such event.
std::optional<std::pair<hs_local_kind, Json>> answer_of(const member::LocalEvent &event);

} // namespace hotsnap::sim
#endif
