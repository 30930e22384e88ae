// SPDX-License-Identifier: GPL-2.0-or-later
#include "network/member_table.h"

#include <algorithm>
#include <bit>
#include <set>

namespace hotsnap::network {

bool is_valid_name(std::string_view name) {
    constexpr size_t longest = 64;
    return !name.empty() && name.size() <= longest && name != "." && name != ".." &&
           std::all_of(name.begin(), name.end(), [](char c) {
               return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      c == '.' || c == '_' || c == '-';
           });
}

std::optional<MemberTable> MemberTable::build(std::vector<Member> members, std::string &error) {
    MemberTable table;
    std::set<std::string_view> names;
    size_t count = 0;
    for (const Member &member : members) {
        if (!is_valid_name(member.name)) {
            error = "member name '" + member.name + "' is not of the form " + name_form;
            return std::nullopt;
        }
        if (!names.insert(member.name).second) {
            error = "member '" + member.name + "' is named twice; name each member once";
            return std::nullopt;
        }
        count += member.macs.size();
    }
    table.slots_.resize(std::bit_ceil(2 * std::max<size_t>(count, 1)));
    table.mask_ = table.slots_.size() - 1;

    for (uint32_t m = 0; m < members.size(); m++) {
        for (const Mac mac : members[m].macs) {
            if (mac.is_group()) {
                error = "member '" + members[m].name + "' has the MAC " + mac.to_string() +
                        ", which is a group address; give the NIC a unicast one";
                return std::nullopt;
            }
            Slot &slot = table.slots_[table.slot_of(mac)];
            if (slot.index != Slot::free) {
                const Mac other = table.macs_[slot.index];
                const std::string who = "member '" + members[slot.member].name + "' and member '" +
                                        members[m].name + "'";
                if (other == mac) {
                    error =
                        who + " both have the MAC " + mac.to_string() + "; give each NIC its own";
                } else {
                    error = who + " have MACs, " + other.to_string() + " and " + mac.to_string() +
                            ", that differ only in bits which colors use (0x1c of the first "
                            "octet); change one of them";
                }
                return std::nullopt;
            }
            slot = {key_of(mac), static_cast<uint32_t>(table.macs_.size()), m};
            table.macs_.push_back(mac);
        }
    }
    table.members_ = std::move(members);
    return table;
}

} // namespace hotsnap::network
