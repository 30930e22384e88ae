// SPDX-License-Identifier: GPL-2.0-or-later
// The members of an epoch and their MACs, with every alias that a color gives them.
//
// Both sides check it: the initiator before INSTALL, so that the user gets one clear error, and
// each mediator when it installs, since a mediator trusts no one.
#ifndef HOTSNAP_MEMBER_TABLE_H
#define HOTSNAP_MEMBER_TABLE_H

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "color.h"
#include "mac.h"

namespace hotsnap {

struct Member {
    std::string name;
    std::vector<Mac> macs;
};

// [A-Za-z0-9._-]{1,64}
bool is_valid_name(std::string_view name);

class MemberTable {
  public:
    // What a MAC seen on the wire means.
    struct Sighting {
        uint32_t mac;    // index of the natural MAC, 0 .. mac_count() - 1
        uint32_t member; // index into members()
        Tint tint;
    };

    MemberTable() = default;
    // Returns no table, and says why and what to do, when two members share a MAC or an alias.
    static std::optional<MemberTable> build(std::vector<Member> members, std::string &error);

    // Exact: all six octets, natural or colored. One hash look-up, no allocation.
    const Sighting *find(Mac mac) const {
        if (slots_.empty()) {
            return nullptr;
        }
        for (size_t i = hash(mac);; i++) {
            const Slot &slot = slots_[i & mask_];
            if (!slot.used) {
                return nullptr;
            }
            if (slot.mac == mac) {
                return &slot.sighting;
            }
        }
    }

    bool empty() const { return macs_.empty(); }
    const std::vector<Member> &members() const { return members_; }
    size_t mac_count() const { return macs_.size(); }
    Mac mac(uint32_t index) const { return macs_[index]; }

  private:
    struct Slot {
        Mac mac;
        bool used = false;
        Sighting sighting{};
    };

    static size_t hash(Mac mac) {
        return static_cast<size_t>((mac.value() * 0x9e37'79b9'7f4a'7c15) >> 24);
    }
    // Returns what is there already, or inserts and returns nullptr.
    const Sighting *insert(Mac mac, Sighting sighting);

    std::vector<Member> members_;
    std::vector<Mac> macs_;
    std::vector<Slot> slots_; // open addressing, at most half full
    size_t mask_ = 0;
};

} // namespace hotsnap
#endif
