// SPDX-License-Identifier: GPL-2.0-or-later
// Instants in microseconds, as the callers of hotsnap/coordinator.h give them.
#ifndef HOTSNAP_COORDINATOR_DEADLINE_H
#define HOTSNAP_COORDINATOR_DEADLINE_H

#include <cstdint>

namespace hotsnap::cluster {

inline constexpr uint64_t never = UINT64_MAX;

// Saturates: a delay comes from users and from other members.
constexpr uint64_t after(uint64_t now_us, uint64_t delay_us) {
    return delay_us > never - now_us ? never : now_us + delay_us;
}

} // namespace hotsnap::cluster
#endif
