// SPDX-License-Identifier: GPL-2.0-or-later
#include "network/hops.h"

#include <algorithm>

#include "network/hearing.h"

namespace hotsnap::network {

std::string Hops::describe(uint32_t nic) const {
    const MemberTable::Nic &entry = table_.nics()[nic];
    const Member &member = table_.members()[entry.member];
    for (const MemberNic &own : member.nics) {
        if (own.mac == entry.mac) {
            return "NIC '" + own.name + "' (" + own.mac.to_string() + ") of member '" +
                   member.name + "'";
        }
    }
    return entry.mac.to_string();
}

std::set<uint32_t> Hops::hearers(Mac from) const {
    const uint32_t sender = *table_.nic(from);
    std::set<uint32_t> members;
    for (uint32_t nic = 0; nic < table_.nics().size(); nic++) {
        if (nic != sender && linked(sender, nic)) {
            members.insert(table_.nics()[nic].member);
        }
    }
    return members;
}

std::string Hops::send(uint32_t member, const PairCounts &sent) {
    for (const auto &[channel, segments] : sent) {
        const auto from = table_.nic(channel.first);
        if (!from || table_.nics()[*from].member != member || !table_.knows(channel.second)) {
            return "a channel that is not its own, " + channel.first.to_string() + " to " +
                   channel.second.to_string();
        }
    }
    sent_.insert(sent.begin(), sent.end());
    return "";
}

std::string Hops::hear(uint32_t member, const PairCounts &heard) {
    for (const auto &[pair, bits] : heard) {
        const auto from = table_.nic(pair.first), to = table_.nic(pair.second);
        if (!from || !to || table_.nics()[*to].member != member) {
            return "to have heard " + pair.first.to_string() + " at " + pair.second.to_string() +
                   ", which is no NIC of its own or of a member";
        }
    }
    for (const auto &[pair, bits] : heard) {
        const uint32_t from = *table_.nic(pair.first), to = *table_.nic(pair.second);
        links_.insert(std::minmax(from, to));
        heard_[{from, to}] |= bits;
    }
    return "";
}

// A single frame may be lost, so it takes that nobody at all heard a colored one.
std::string Hops::obstacle() const {
    std::map<uint32_t, uint64_t> heard; // by sending NIC
    for (const auto &[pair, bits] : heard_) {
        heard[pair.first] |= bits;
    }
    for (const auto &[nic, bits] : heard) {
        if ((bits & heard_natural) && !(bits & heard_alias)) {
            return "The network drops frames with other source addresses from " + describe(nic) +
                   ": other members hear it, but not its colored frames; let that port send with "
                   "any locally administered source (port security, anti-spoofing, static entries)";
        }
    }
    return "";
}

std::vector<Hops::Expected> Hops::expected() {
    std::vector<Expected> expected(table_.members().size());
    const auto expect_mark = [&](uint32_t from, uint32_t to) {
        const MemberTable::Nic &own = table_.nics()[to];
        expected[own.member].marks[{table_.nics()[from].mac, own.mac}] = 1;
    };
    for (const auto &[a, b] : links_) {
        expect_mark(a, b);
        expect_mark(b, a);
    }
    shared_.clear();
    for (const auto &[channel, segments] : sent_) {
        const uint32_t from = *table_.nic(channel.first);
        std::vector<uint32_t> homes;
        for (const uint32_t source : table_.senders(channel.second)) {
            const uint32_t nic = table_.sources()[source].nic;
            if (nic != from && linked(from, nic)) {
                homes.push_back(nic);
            }
        }
        if (homes.size() == 1) {
            expected[table_.nics()[homes.front()].member].white[channel] = segments;
        } else {
            Shared &shared = shared_[channel];
            shared.segments = segments;
            for (const uint32_t nic : homes) {
                shared.homes.insert(table_.nics()[nic].member);
            }
        }
    }
    return expected;
}

uint64_t Hops::lost(const std::vector<PairCounts> &got) const {
    uint64_t lost = 0;
    for (const auto &[channel, shared] : shared_) {
        const std::set<uint32_t> hearing = hearers(channel.first);
        uint64_t sum = 0, fewest = UINT64_MAX;
        for (uint32_t member = 0; member < got.size(); member++) {
            const auto at = got[member].find(channel);
            const uint64_t count = at == got[member].end() ? 0 : at->second;
            sum += shared.homes.contains(member) ? count : 0;
            if (count > 0 || hearing.contains(member)) {
                fewest = std::min(fewest, count);
            }
        }
        const uint64_t arrived = !shared.homes.empty() ? sum : fewest == UINT64_MAX ? 0 : fewest;
        lost += shared.segments > arrived ? shared.segments - arrived : 0;
    }
    return lost;
}

} // namespace hotsnap::network
