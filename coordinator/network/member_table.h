// SPDX-License-Identifier: GPL-2.0-or-later
// The members of an epoch, their NICs, and the source MACs that each NIC sends for. Each pair of
// NIC and source has an alias in each color. And the IP addresses that are the members'.
//
// All members build the same table from the same list, and so the same aliases. Both sides check
// it: the initiator before INSTALL, so that the user gets one clear error, and each mediator at
// INSTALL, since a mediator trusts no other member.
#ifndef HOTSNAP_NETWORK_MEMBER_TABLE_H
#define HOTSNAP_NETWORK_MEMBER_TABLE_H

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "network/alias.h"
#include "network/ip_address.h"
#include "network/mac.h"

namespace hotsnap::network {

struct MemberNic {
    std::string name;         // of the netdev
    Mac mac;                  // its own; tells the NIC from all others
    std::vector<Mac> sources; // others that it has sent frames for
    bool complete = true;     // it has sent for no other
    uint32_t queues = 1;
    std::vector<IpAddress> addresses{}; // that it has claimed

    bool operator==(const MemberNic &) const = default;
};

inline constexpr uint32_t most_queues = 1024; // of a NIC; QEMU's bound, too
inline constexpr size_t most_addresses = 64;  // of a NIC

struct Member {
    std::string name;
    std::vector<MemberNic> nics;

    bool operator==(const Member &) const = default;
};

// A name becomes a folder's name in each bundle, so it must not lead anywhere else.
inline constexpr const char *name_form = "[A-Za-z0-9._-]{1,64}, other than '.' and '..'";
bool is_valid_name(std::string_view name);

class MemberTable {
  public:
    struct Nic {
        Mac mac;
        uint32_t member;       // index into members()
        uint32_t first_source; // index of its own MAC among the sources
        uint32_t queues;
    };
    // A NIC that sends frames with that source MAC.
    struct Source {
        Mac mac;
        uint32_t nic; // index into nics()
    };
    // The meaning of an alias.
    struct Sighting {
        uint32_t source; // index into sources()
        Tint tint;
    };

    MemberTable() = default;
    // When two NICs share a MAC: no table, and `error` says why and what to do.
    static std::optional<MemberTable> build(std::vector<Member> members, std::string &error);

    bool empty() const { return nics_.empty(); }
    // Whether each address that a member sends for is in the table.
    bool complete() const { return complete_; }
    const std::vector<Member> &members() const { return members_; }
    const std::vector<Nic> &nics() const { return nics_; }
    const std::vector<Source> &sources() const { return sources_; }

    // The NIC with that MAC of its own.
    std::optional<uint32_t> nic(Mac own) const {
        const auto at = nic_by_mac_.find(own.value());
        return at == nic_by_mac_.end() ? std::nullopt : std::optional(at->second);
    }
    // The sources with that MAC, one for each NIC that sends for it; empty for one of no member.
    const std::vector<uint32_t> &senders(Mac mac) const {
        static const std::vector<uint32_t> nobody;
        const auto at = by_mac_.find(mac.value());
        return at == by_mac_.end() ? nobody : at->second;
    }
    bool knows(Mac mac) const { return by_mac_.contains(mac.value()); }
    // The source with that MAC of that NIC.
    std::optional<uint32_t> source(uint32_t nic, Mac mac) const {
        if (nics_[nic].mac == mac) {
            return nics_[nic].first_source;
        }
        for (const uint32_t source : senders(mac)) {
            if (sources_[source].nic == nic) {
                return source;
            }
        }
        return std::nullopt;
    }

    // Whether the address is that of a member other than the one with that index.
    bool is_of_another(const IpAddress &address, uint32_t member) const {
        const auto at = by_address_.find(address);
        return at != by_address_.end() && at->second != member;
    }

    Mac alias(uint32_t source, Tint tint) const { return prefix_.alias(source, tint); }
    // None for a MAC that is no alias of this table.
    std::optional<Sighting> read(Mac mac) const {
        const auto reading = prefix_.read(mac);
        if (!reading || reading->index >= sources_.size()) {
            return std::nullopt;
        }
        return Sighting{reading->index, reading->tint};
    }

  private:
    // Why the addresses cannot be those of the member with that index, or nothing.
    std::string add_addresses(uint32_t member, const std::vector<IpAddress> &addresses);
    void choose_prefix();

    std::vector<Member> members_;
    std::vector<Nic> nics_;
    std::vector<Source> sources_;
    std::unordered_map<uint64_t, uint32_t> nic_by_mac_;
    std::unordered_map<uint64_t, std::vector<uint32_t>> by_mac_;
    static constexpr uint32_t several = UINT32_MAX;
    std::unordered_map<IpAddress, uint32_t, IpAddress::Hash> by_address_; // its member, or several
    AliasPrefix prefix_;
    bool complete_ = true;
};

} // namespace hotsnap::network
#endif
