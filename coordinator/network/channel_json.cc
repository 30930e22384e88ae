// SPDX-License-Identifier: GPL-2.0-or-later
#include "network/channel_json.h"

namespace hotsnap::network {

namespace {

Mac parse_mac(std::string_view text) {
    if (const std::optional<Mac> mac = Mac::parse(text)) {
        return *mac;
    }
    throw BadInput("'" + std::string(text) + "' is not a MAC of the form 52:54:00:12:34:56");
}

uint32_t queues_from_json(const Json &nic) {
    if (!nic.contains("queues")) {
        return 1;
    }
    const uint64_t queues = get_uint(nic, "queues");
    if (queues < 1 || queues > most_queues) {
        throw BadInput("a NIC has 1 to " + std::to_string(most_queues) + " queues, not " +
                       std::to_string(queues));
    }
    return static_cast<uint32_t>(queues);
}

IpAddress address_from_json(const Json &json) {
    if (!json.is_string()) {
        throw BadInput("an IP address must be a string");
    }
    const auto &text = json.get_ref<const std::string &>();
    if (const std::optional<IpAddress> address = IpAddress::parse(text)) {
        return *address;
    }
    throw BadInput("'" + text + "' is not an IP address");
}

} // namespace

Json counts_to_json(const PairCounts &counts) {
    Json json = Json::object();
    for (const auto &[pair, segments] : counts) {
        json[pair.first.to_string() + ">" + pair.second.to_string()] = segments;
    }
    return json;
}

PairCounts counts_from_json(const Json &json) {
    if (!json.is_object()) {
        throw BadInput("channel counts must be an object");
    }
    PairCounts counts;
    for (const auto &[key, value] : json.items()) {
        const size_t middle = key.find('>');
        if (middle == std::string::npos || !value.is_number_unsigned()) {
            throw BadInput("channel counts must be of the form \"src>dst\":N, not '" + key + "'");
        }
        const std::string_view text = key;
        const Mac source = parse_mac(text.substr(0, middle));
        const Mac destination = parse_mac(text.substr(middle + 1));
        counts[{source, destination}] = value.get<uint64_t>();
    }
    return counts;
}

Json nics_to_json(const std::vector<MemberNic> &nics) {
    Json json = Json::array();
    for (const MemberNic &nic : nics) {
        Json sources = Json::array();
        for (const Mac mac : nic.sources) {
            sources.push_back(mac.to_string());
        }
        Json entry = {{"nic", nic.name},
                      {"mac", nic.mac.to_string()},
                      {"sources", std::move(sources)},
                      {"complete", nic.complete}};
        if (nic.queues != 1) {
            entry["queues"] = nic.queues;
        }
        for (const IpAddress &address : nic.addresses) {
            entry["addresses"].push_back(address.to_string());
        }
        json.push_back(std::move(entry));
    }
    return json;
}

std::vector<MemberNic> nics_from_json(const Json &json) {
    if (!json.is_array()) {
        throw BadInput("a member's NICs must be an array");
    }
    std::vector<MemberNic> nics;
    for (const Json &entry : json) {
        MemberNic nic;
        nic.name = get_string(entry, "nic");
        nic.mac = parse_mac(get_string(entry, "mac"));
        for (const Json &mac : get_array(entry, "sources")) {
            nic.sources.push_back(mac_from_json(mac));
        }
        nic.complete = get_bool(entry, "complete");
        nic.queues = queues_from_json(entry);
        nic.addresses = addresses_from_json(entry);
        nics.push_back(std::move(nic));
    }
    return nics;
}

std::vector<IpAddress> addresses_from_json(const Json &nic) {
    std::vector<IpAddress> addresses;
    if (nic.contains("addresses")) {
        for (const Json &address : get_array(nic, "addresses")) {
            addresses.push_back(address_from_json(address));
        }
    }
    return addresses;
}

Json members_to_json(const std::vector<Member> &members) {
    Json json = Json::array();
    for (const Member &member : members) {
        json.push_back({{"name", member.name}, {"nics", nics_to_json(member.nics)}});
    }
    return json;
}

std::vector<Member> members_from_json(const Json &json) {
    if (!json.is_array()) {
        throw BadInput("the member table must be an array");
    }
    std::vector<Member> members;
    for (const Json &entry : json) {
        members.push_back({get_string(entry, "name"), nics_from_json(get_array(entry, "nics"))});
    }
    return members;
}

Json contacts_to_json(const ContactRecord &record, const std::vector<Member> &members) {
    Json first = Json::object();
    for (const ContactRecord::First &contact : record.first) {
        first[members[contact.member].name] = contact.us;
    }
    return {{"until_us", record.until_us}, {"first_us", std::move(first)}};
}

Mac mac_from_json(const Json &json) {
    if (!json.is_string()) {
        throw BadInput("a MAC must be a string");
    }
    return parse_mac(json.get_ref<const std::string &>());
}

} // namespace hotsnap::network
