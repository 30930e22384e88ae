// SPDX-License-Identifier: GPL-2.0-or-later
#include "wire/manifest.h"

#include <algorithm>
#include <optional>

namespace hotsnap::cluster {

namespace {

struct Pause {
    uint64_t begin_ns;
    uint64_t end_ns;
};

// A member that stands until its memory is copied tells the whole pause in its report.
std::optional<Pause> pause_of(const MemberRecord &member) {
    const auto later = member.report.find("pause");
    const Json &pause = later == member.report.end() ? member.cut.pause : *later;
    const std::optional<uint64_t> begin = find_uint(pause, "begin_ns");
    const std::optional<uint64_t> end = find_uint(pause, "end_ns");
    return begin && end && *end >= *begin ? std::optional(Pause{*begin, *end}) : std::nullopt;
}

// The CLOCK_MONOTONICs of two hosts, or of two boots of one host, cannot be compared.
bool comparable(const RunRecord &record) {
    std::string first;
    for (const MemberRecord &member : record.members) {
        const std::string boot = find_string(member.prepared.info, "boot_id");
        if (boot.empty() || (!first.empty() && boot != first)) {
            return false;
        }
        first = boot;
    }
    return true;
}

uint64_t microseconds(uint64_t ns) {
    return (ns + 500) / 1000;
}

/*
 * TCP backoff duration (HotSnap, section 5.3): from the first suspend to the last resume of a pair.
 */
Json backoff(const Request &request, const RunRecord &record) {
    constexpr size_t most_listed = 64; // members; for more, the pairs follow from the pauses
    Json pairs = Json::array();
    uint64_t widest = 0, longest = 0;
    const size_t n = record.members.size();
    std::vector<std::optional<Pause>> pauses;
    for (const MemberRecord &member : record.members) {
        pauses.push_back(pause_of(member));
    }
    for (size_t a = 0; a < n; a++) {
        if (!pauses[a]) {
            continue;
        }
        longest = std::max(longest, pauses[a]->end_ns - pauses[a]->begin_ns);
        for (size_t b = a + 1; b < n; b++) {
            if (!pauses[b]) {
                continue;
            }
            const uint64_t first = std::min(pauses[a]->begin_ns, pauses[b]->begin_ns);
            const uint64_t last = std::max(pauses[a]->end_ns, pauses[b]->end_ns);
            widest = std::max(widest, last - first);
            if (n <= most_listed) {
                pairs.push_back({{"a", request.members[a].name},
                                 {"b", request.members[b].name},
                                 {"us", microseconds(last - first)}});
            }
        }
    }
    Json cut = {{"downtime_max_us", microseconds(longest)}, {"comparable", comparable(record)}};
    if (cut["comparable"]) {
        cut["backoff_max_us"] = microseconds(widest);
        cut["pairs"] = std::move(pairs);
    } else {
        cut["backoff_max_us"] = nullptr;
        cut["pairs"] = Json::array();
    }
    return cut;
}

/*
 * Without a pause: only disk requests were held. No vCPU stood still, so no connection backed off.
 */
Json holds(const RunRecord &record) {
    uint64_t longest = 0;
    for (const MemberRecord &member : record.members) {
        if (const std::optional<Pause> hold = pause_of(member)) {
            longest = std::max(longest, hold->end_ns - hold->begin_ns);
        }
    }
    return {{"downtime_max_us", 0},
            {"hold_max_us", microseconds(longest)},
            {"comparable", comparable(record)},
            {"backoff_max_us", nullptr},
            {"pairs", Json::array()}};
}

// How the members were brought to one instant.
Json order(const Request &request) {
    Json json = {{"order", request.kind == Request::Kind::barrier ? "barrier" : "causal"}};
    if (request.kind == Request::Kind::barrier) {
        json["hold_timeout_us"] = request.hold_us;
    }
    return json;
}

Json timeline(const RunLog &log) {
    Json json = Json::array();
    for (const RunLog::Moment &moment : log.timeline) {
        json.push_back({{"phase", moment.phase}, {"us", moment.at_us}});
    }
    return json;
}

} // namespace

Json snapshot_manifest(const Request &request, const RunRecord &record, const RunLog &log) {
    const bool disks_only = request.content == Request::Content::disks;
    Json members = Json::array();
    uint64_t recorded = 0, lost = record.lost_between, white = 0, unmarked = 0;
    for (size_t i = 0; i < record.members.size(); i++) {
        const MemberRecord &member = record.members[i];
        // The member's own report came last and prevails; it says more about the channel.
        Json json = member.prepared.info;
        json["nics"] = network::nics_to_json(member.prepared.nics);
        json[disks_only ? "hold" : "pause"] = member.cut.pause;
        json["cause"] = member.cut.cause;
        json["channel"] = {{"frames", member.channels.recorded}, {"lost", member.channels.lost}};
        json.merge_patch(member.report);
        json["name"] = request.members[i].name;
        json["address"] = request.members[i].address;
        members.push_back(std::move(json));
        recorded += member.channels.recorded;
        lost += member.channels.lost;
        unmarked += member.channels.unmarked;
        for (const auto &[pair, segments] : member.cut.white_sent) {
            white += segments;
        }
    }
    Json cut = disks_only ? holds(record) : backoff(request, record);
    if (disks_only) {
        cut.update(order(request));
    }
    cut["coloring"] = request.coloring && request.kind != Request::Kind::barrier;
    cut["white_sent"] = white;
    cut["recorded"] = recorded;
    cut["lost"] = lost;
    cut["lost_between"] = record.lost_between;
    cut["unmarked"] = unmarked;
    Json manifest = {{"format", "hotsnap-bundle"},
                     {"version", 1},
                     {"tag", request.tag},
                     {"epoch", record.epoch},
                     {"initiator", request.members[request.self].name},
                     {"members", std::move(members)},
                     {"cut", std::move(cut)},
                     {"timeline", timeline(log)}};
    if (disks_only) {
        // A reader that knows no such bundle must not look for the memory of this one.
        manifest["version"] = 2;
        manifest["content"] = "disks";
    } else {
        manifest["mode"] = to_string(request.mode);
    }
    return manifest;
}

Json restore_result(const Request &request, const RunRecord &record, const RunLog &log) {
    Json members = Json::array();
    for (size_t i = 0; i < record.members.size(); i++) {
        Json json = record.members[i].report;
        json["name"] = request.members[i].name;
        json["address"] = request.members[i].address;
        members.push_back(std::move(json));
    }
    return {{"bundle", request.bundle},
            {"initiator", request.members[request.self].name},
            {"members", std::move(members)},
            {"timeline", timeline(log)}};
}

} // namespace hotsnap::cluster
