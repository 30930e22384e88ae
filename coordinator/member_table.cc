// SPDX-License-Identifier: GPL-2.0-or-later
#include "member_table.h"

#include <algorithm>
#include <bit>
#include <set>

namespace hotsnap {

bool is_valid_name(std::string_view name) {
    constexpr size_t longest = 64;
    return !name.empty() && name.size() <= longest &&
           std::all_of(name.begin(), name.end(), [](char c) {
               return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      c == '.' || c == '_' || c == '-';
           });
}

const MemberTable::Sighting *MemberTable::insert(Mac mac, Sighting sighting) {
    if (const Sighting *there = find(mac)) {
        return there;
    }
    size_t i = hash(mac);
    while (slots_[i & mask_].used) {
        i++;
    }
    slots_[i & mask_] = {mac, true, sighting};
    return nullptr;
}

std::optional<MemberTable> MemberTable::build(std::vector<Member> members, std::string &error) {
    MemberTable table;
    std::set<std::string_view> names;
    size_t count = 0;
    for (const Member &member : members) {
        if (!is_valid_name(member.name)) {
            error = "member name '" + member.name + "' is not of the form [A-Za-z0-9._-]{1,64}";
            return std::nullopt;
        }
        if (!names.insert(member.name).second) {
            error = "member '" + member.name + "' is named twice; name each member once";
            return std::nullopt;
        }
        count += member.macs.size();
    }
    const size_t slots = std::bit_ceil(2 * all_tints.size() * std::max<size_t>(count, 1));
    table.slots_.resize(slots);
    table.mask_ = slots - 1;

    for (uint32_t m = 0; m < members.size(); m++) {
        for (const Mac mac : members[m].macs) {
            if (mac.is_group()) {
                error = "member '" + members[m].name + "' has the MAC " + mac.to_string() +
                        ", which is a group address; give the NIC a unicast one";
                return std::nullopt;
            }
            const auto index = static_cast<uint32_t>(table.macs_.size());
            for (const Tint tint : all_tints) {
                const Sighting *there =
                    table.insert(mac.masked(mask_of(tint)), Sighting{index, m, tint});
                if (!there) {
                    continue;
                }
                const std::string other = table.macs_[there->mac].to_string();
                const std::string who = "member '" + members[m].name + "' and member '" +
                                        members[there->member].name + "'";
                if (table.macs_[there->mac] == mac) {
                    error = who + " both have the MAC " + other + "; give each NIC its own";
                } else {
                    error = who + " have MACs, " + mac.to_string() + " and " + other +
                            ", that differ only in bits which colors use (0x1c of the first "
                            "octet); change one of them";
                }
                return std::nullopt;
            }
            table.macs_.push_back(mac);
        }
    }
    table.members_ = std::move(members);
    return table;
}

} // namespace hotsnap
