// SPDX-License-Identifier: GPL-2.0-or-later
#include "contact_graph.h"

#include <optional>
#include <unordered_map>

namespace hotsnap::cluster {

namespace {

// A hint that promises more than this is no hint of ours (network/contacts.h: five seconds).
constexpr uint64_t longest_us = 3'600'000'000;

using Names = std::unordered_map<std::string, uint32_t>;

// None: it is not as described.
std::optional<Speaker> speaker(const Json &member, const Names &names) {
    const auto channel = member.find("channel");
    if (channel == member.end() || !channel->is_object()) {
        return std::nullopt;
    }
    const auto contacts = channel->find("contacts");
    if (contacts == channel->end() || !contacts->is_object()) {
        return std::nullopt;
    }
    const std::optional<uint64_t> until_us = find_uint(*contacts, "until_us");
    const auto first = contacts->find("first_us");
    if (!until_us || *until_us > longest_us || first == contacts->end() || !first->is_object()) {
        return std::nullopt;
    }
    Speaker found{*until_us, {}};
    for (const auto &[name, us] : first->items()) {
        if (!us.is_number_unsigned() || us.get<uint64_t>() >= *until_us) {
            return std::nullopt;
        }
        // One to a member that is not restored binds nobody.
        if (const auto to = names.find(name); to != names.end()) {
            found.contacts.push_back({to->second, us.get<uint64_t>()});
        }
    }
    return found;
}

} // namespace

ContactGraph contact_graph(const Json &manifest, const std::vector<std::string> &members) {
    ContactGraph graph(members.size());
    Names names;
    for (uint32_t member = 0; member < members.size(); member++) {
        names.emplace(members[member], member);
    }
    if (!manifest.is_object() || !manifest.contains("members")) {
        return graph;
    }
    for (const Json &member : manifest["members"]) {
        if (!member.is_object()) {
            continue;
        }
        const auto at = names.find(find_string(member, "name"));
        if (at != names.end()) {
            graph[at->second] = speaker(member, names).value_or(Speaker{});
        }
    }
    return graph;
}

} // namespace hotsnap::cluster
