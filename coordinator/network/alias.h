// SPDX-License-Identifier: GPL-2.0-or-later
// The alias that replaces a frame's source MAC between two members. It says which NIC sends the
// frame, for which address, and in which color.
//
//     bits 47-24  prefix of the member table: a locally administered unicast address
//     bit  23     parity of the epoch
//     bit  22     1: red, 0: white
//     bits 21-0   index into the member table's sources
//
// No byte is added to a frame, so no MTU, checksum or segmentation offload is in the way.
#ifndef HOTSNAP_NETWORK_ALIAS_H
#define HOTSNAP_NETWORK_ALIAS_H

#include <cstddef>
#include <cstdint>
#include <optional>

#include "network/color.h"
#include "network/mac.h"

namespace hotsnap::network {

class AliasPrefix {
  public:
    static constexpr unsigned index_bits = 22;
    static constexpr size_t most_sources = size_t{1} << index_bits;

    constexpr AliasPrefix() = default;
    // Any number makes a prefix; 22 of its bits are used.
    static constexpr AliasPrefix from_hash(uint64_t hash) {
        constexpr uint32_t group = 0x01'0000, local = 0x02'0000;
        AliasPrefix prefix;
        prefix.value_ = (static_cast<uint32_t>(hash >> 40) & ~group) | local;
        return prefix;
    }

    // Natural is no color of an alias.
    constexpr Mac alias(uint32_t index, Tint tint) const {
        return Mac(uint64_t{value_} << 24 | uint64_t{tint.odd} << 23 |
                   uint64_t{tint.color == Color::red} << 22 | index);
    }

    struct Reading {
        uint32_t index;
        Tint tint;
    };
    constexpr bool matches(Mac mac) const { return mac.value() >> 24 == value_; }
    constexpr std::optional<Reading> read(Mac mac) const {
        if (!matches(mac)) {
            return std::nullopt;
        }
        const uint64_t value = mac.value();
        return Reading{static_cast<uint32_t>(value & (most_sources - 1)),
                       {value >> 22 & 1 ? Color::red : Color::white, (value >> 23 & 1) != 0}};
    }

  private:
    uint32_t value_ = 0; // 0 is the prefix of no table
};

} // namespace hotsnap::network
#endif
