// SPDX-License-Identifier: GPL-2.0-or-later
#include "network/member_table.h"

#include <algorithm>
#include <set>

namespace hotsnap::network {

namespace {

// FNV-1a: the same on every host, and a user who makes two tables collide harms nobody but himself.
class Hash {
  public:
    void add(uint64_t value) {
        for (int shift = 0; shift < 64; shift += 8) {
            add_octet(static_cast<uint8_t>(value >> shift));
        }
    }
    void add(std::string_view text) {
        add(text.size());
        for (const char c : text) {
            add_octet(static_cast<uint8_t>(c));
        }
    }
    uint64_t value() const { return value_; }

  private:
    void add_octet(uint8_t octet) { value_ = (value_ ^ octet) * 0x100'0000'01b3; }

    uint64_t value_ = 0xcbf2'9ce4'8422'2325;
};

std::string group_error(const std::string &member, Mac mac) {
    return "member '" + member + "' has or sends for the MAC " + mac.to_string() +
           ", which is a group address; give the NIC a unicast one";
}

} // namespace

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
    for (uint32_t m = 0; m < members.size(); m++) {
        const Member &member = members[m];
        if (!is_valid_name(member.name)) {
            error = "member name '" + member.name + "' is not of the form " + name_form;
            return std::nullopt;
        }
        if (!names.insert(member.name).second) {
            error = "member '" + member.name + "' is named twice; name each member once";
            return std::nullopt;
        }
        for (const MemberNic &nic : member.nics) {
            if (nic.mac.is_group()) {
                error = group_error(member.name, nic.mac);
                return std::nullopt;
            }
            const auto index = static_cast<uint32_t>(table.nics_.size());
            const auto [other, is_new] = table.nic_by_mac_.try_emplace(nic.mac.value(), index);
            if (!is_new) {
                error = "member '" + members[table.nics_[other->second].member].name +
                        "' and member '" + member.name + "' both have the MAC " +
                        nic.mac.to_string() + "; give each NIC its own";
                return std::nullopt;
            }
            table.complete_ &= nic.complete;
            table.nics_.push_back(
                {nic.mac, m, static_cast<uint32_t>(table.sources_.size()), nic.queues});
            std::set<Mac> own;
            const auto add = [&](Mac mac) {
                if (own.insert(mac).second) {
                    table.by_mac_[mac.value()].push_back(
                        static_cast<uint32_t>(table.sources_.size()));
                    table.sources_.push_back({mac, index});
                }
            };
            add(nic.mac);
            for (const Mac mac : nic.sources) {
                if (mac.is_group()) {
                    error = group_error(member.name, mac);
                    return std::nullopt;
                }
                add(mac);
            }
            error = table.add_addresses(m, nic.addresses);
            if (!error.empty()) {
                error = "NIC '" + nic.name + "' of member '" + member.name + "' " + error;
                return std::nullopt;
            }
        }
    }
    if (table.sources_.size() > AliasPrefix::most_sources) {
        error = "the members send for " + std::to_string(table.sources_.size()) +
                " addresses; at most " + std::to_string(AliasPrefix::most_sources) +
                " can take part in a snapshot";
        return std::nullopt;
    }
    table.members_ = std::move(members);
    if (!table.empty()) {
        table.choose_prefix();
    }
    return table;
}

std::string MemberTable::add_addresses(uint32_t member, const std::vector<IpAddress> &addresses) {
    if (addresses.size() > most_addresses) {
        return "claims " + std::to_string(addresses.size()) + " IP addresses; at most " +
               std::to_string(most_addresses) + " can be listed";
    }
    for (const IpAddress &address : addresses) {
        if (!address.is_routable()) {
            return "claims the IP address " + address.to_string() +
                   ", which is no unicast address of a network";
        }
        const auto [owner, is_new] = by_address_.try_emplace(address, member);
        if (!is_new && owner->second != member) {
            owner->second = several;
        }
    }
    return "";
}

/*
 * The prefix is made from the table's content. So the same members have the same aliases in each
 * epoch, which spares the switches' tables, and other members have others: a late frame is never
 * read with the wrong table. No member's address may look like an alias.
 */
void MemberTable::choose_prefix() {
    Hash hash;
    for (const Member &member : members_) {
        hash.add(member.name);
        for (const MemberNic &nic : member.nics) {
            hash.add(nic.mac.value());
            hash.add(nic.sources.size());
            for (const Mac mac : nic.sources) {
                hash.add(mac.value());
            }
        }
    }
    do {
        hash.add(hash.value()); // stirs the last octets in, and makes another when one is taken
        prefix_ = AliasPrefix::from_hash(hash.value());
    } while (std::any_of(sources_.begin(), sources_.end(),
                         [this](const Source &source) { return prefix_.matches(source.mac); }));
}

} // namespace hotsnap::network
