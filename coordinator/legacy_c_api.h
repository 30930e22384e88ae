// SPDX-License-Identifier: GPL-2.0-or-later
// hs_work_kind() and hs_coordinator_local(): local work by kinds and JSON, for a caller that does
// not take hs_work and hs_event yet. To be deleted with legacy_c_api.cc and the functions it has.
#ifndef HOTSNAP_COORDINATOR_LEGACY_C_API_H
#define HOTSNAP_COORDINATOR_LEGACY_C_API_H

#include <optional>

#include "hotsnap/coordinator.h"
#include "member/work.h"

namespace hotsnap::cluster {

// None for a kind that is not known.
std::optional<member::LocalEvent> legacy_event(hs_local_kind kind, const char *json);

} // namespace hotsnap::cluster
#endif
