// SPDX-License-Identifier: GPL-2.0-or-later
// The color of a frame: the epoch state of the NIC that sends it, at the time of sending.
//
// It belongs to the hop: a member that forwards a frame for another gives it a color of its own.
// (HotSnap, section 3.3, adds the color to the payload; here it travels in the source MAC,
// network/alias.h.) White has the parity of the epoch, too: frames of a pair keep order, but an
// epoch can be aborted while its white frames are under way, and such a frame, counted in the next
// epoch, would close a channel before its last white frame came.
#ifndef HOTSNAP_NETWORK_COLOR_H
#define HOTSNAP_NETWORK_COLOR_H

#include <cstdint>

namespace hotsnap::network {

enum class Color : uint8_t {
    natural = 0, // outside an epoch
    white,       // in an epoch, before the sender's cut
    red,         // in an epoch, after the sender's cut
};

struct Tint {
    Color color = Color::natural;
    bool odd = false; // parity of the epoch; natural has none

    constexpr bool operator==(const Tint &) const = default;
};

constexpr bool is_odd(uint64_t epoch) {
    return epoch & 1;
}

} // namespace hotsnap::network
#endif
