// SPDX-License-Identifier: GPL-2.0-or-later
// The color of a frame: what its sender's epoch state was when it was sent.
//
// It travels in three bits of the source MAC's first octet (HotSnap, section 3.3, adds it to the
// payload; here no byte is added, so no MTU, checksum or segmentation offload is in the way). The
// bits avoid 0x01 (group) and 0x02 (locally administered). The parity is part of white, too:
// frames of a pair keep order, but an epoch can be aborted while its white frames are under way,
// and one counted in the next epoch would close a channel before its last white frame came.
#ifndef HOTSNAP_COLOR_H
#define HOTSNAP_COLOR_H

#include <array>
#include <cstdint>

namespace hotsnap {

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

// What to XOR the first octet of the source MAC with.
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

inline constexpr std::array<Tint, 5> all_tints = {{{Color::natural, false},
                                                   {Color::white, false},
                                                   {Color::white, true},
                                                   {Color::red, false},
                                                   {Color::red, true}}};

} // namespace hotsnap
#endif
