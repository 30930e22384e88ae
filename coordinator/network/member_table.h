// SPDX-License-Identifier: GPL-2.0-or-later
// The members of an epoch and their MACs, with every alias that a color gives them.
//
// Both sides check the table: the initiator before INSTALL, so that the user gets one clear error,
// and each mediator at INSTALL, since a mediator trusts no other member.
#ifndef HOTSNAP_NETWORK_MEMBER_TABLE_H
#define HOTSNAP_NETWORK_MEMBER_TABLE_H

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "network/color.h"
#include "network/mac.h"

namespace hotsnap::network {

struct Member {
    std::string name;
    std::vector<Mac> macs;
};

// A name becomes a folder's name in each bundle, so it must not lead anywhere else.
inline constexpr const char *name_form = "[A-Za-z0-9._-]{1,64}, other than '.' and '..'";
bool is_valid_name(std::string_view name);

class MemberTable {
  public:
    // The meaning of a MAC seen on the wire.
    struct Sighting {
        uint32_t mac;    // index of the natural MAC, 0 .. mac_count() - 1
        uint32_t member; // index into members()
        Tint tint;
    };

    MemberTable() = default;
    // When two members share a MAC or an alias: no table, and `error` says why and what to do.
    static std::optional<MemberTable> build(std::vector<Member> members, std::string &error);

    // Exact: all six octets, natural or colored. One hash look-up, no allocation.
    std::optional<Sighting> find(Mac mac) const {
        if (slots_.empty()) {
            return std::nullopt;
        }
        const Slot &slot = slots_[slot_of(mac)];
        if (slot.index == Slot::free) {
            return std::nullopt;
        }
        const uint8_t mask = mac.first_octet() ^ macs_[slot.index].first_octet();
        const std::optional<Tint> tint = tint_of(mask);
        if (!tint) {
            return std::nullopt;
        }
        return Sighting{slot.index, slot.member, *tint};
    }

    bool empty() const { return macs_.empty(); }
    const std::vector<Member> &members() const { return members_; }
    size_t mac_count() const { return macs_.size(); }
    Mac mac(uint32_t index) const { return macs_[index]; }

  private:
    struct Slot {
        static constexpr uint32_t free = UINT32_MAX;
        uint64_t key = 0; // the MAC without the bits of a tint
        uint32_t index = free;
        uint32_t member = 0;
    };

    static uint64_t key_of(Mac mac) {
        return mac.value() & ~(static_cast<uint64_t>(tint_bits) << 40);
    }
    // The slot of the MAC, or of an alias of it; or the free slot where it would be.
    size_t slot_of(Mac mac) const {
        const uint64_t key = key_of(mac);
        size_t i = static_cast<size_t>((key * 0x9e37'79b9'7f4a'7c15) >> 24) & mask_;
        while (slots_[i].index != Slot::free && slots_[i].key != key) {
            i = (i + 1) & mask_;
        }
        return i;
    }

    std::vector<Member> members_;
    std::vector<Mac> macs_;
    std::vector<Slot> slots_; // open addressing, at most half full
    size_t mask_ = 0;
};

} // namespace hotsnap::network
#endif
