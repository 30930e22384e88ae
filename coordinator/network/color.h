// SPDX-License-Identifier: GPL-2.0-or-later
// The color of a frame: the epoch state of its sender at the time of sending.
//
// It travels in three bits of the source MAC's first octet (HotSnap, section 3.3, adds it to the
// payload; here no byte is added, so no MTU, checksum or segmentation offload is in the way). The
// bits avoid 0x01 (group) and 0x02 (locally administered). White has the parity, too: frames of a
// pair keep order, but an epoch can be aborted while its white frames are under way, and such a
// frame, counted in the next epoch, would close a channel before its last white frame came.
#ifndef HOTSNAP_NETWORK_COLOR_H
#define HOTSNAP_NETWORK_COLOR_H

#include <cstdint>
#include <optional>

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

// The mask to XOR with the first octet of the source MAC.
constexpr uint8_t mask_of(Tint tint) {
    constexpr uint8_t parity = 0x10;
    switch (tint.color) {
    case Color::natural:
        return 0;
    case Color::white:
        return tint.odd ? 0x04 | parity : 0x04;
    case Color::red:
        return tint.odd ? 0x08 | parity : 0x08;
    }
    return 0;
}

// Two natural MACs that differ in any of these bits, and in no others, have an alias in common: the
// differences of two masks are all values of these bits.
inline constexpr uint8_t tint_bits = 0x1c;

// The inverse of mask_of; none for a mask that no tint has.
constexpr std::optional<Tint> tint_of(uint8_t mask) {
    for (const Color color : {Color::natural, Color::white, Color::red}) {
        for (const bool odd : {false, true}) {
            if (mask == mask_of({color, odd})) {
                return Tint{color, odd && color != Color::natural};
            }
        }
    }
    return std::nullopt;
}

} // namespace hotsnap::network
#endif
