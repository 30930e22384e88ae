// SPDX-License-Identifier: GPL-2.0-or-later
#include "wire/request.h"

#include <cctype>
#include <set>

#include "network/member_table.h"

namespace hotsnap::cluster {

namespace {

// No real wait is longer; the sum of two stays far from overflow.
constexpr uint64_t longest_us = uint64_t{365} * 24 * 3600 * 1'000'000;

Request::Mode read_mode(const Json &json) {
    const std::string text = get_string(json, "mode", to_string(Request::Mode::hot));
    for (const auto mode :
         {Request::Mode::hot, Request::Mode::precopy, Request::Mode::stop_and_copy}) {
        if (text == to_string(mode)) {
            return mode;
        }
    }
    throw BadInput("'mode' must be 'hot', 'precopy' or 'stop-and-copy', not '" + text + "'");
}

void read_duration(const Json &json, const char *key, uint64_t &value, uint64_t least) {
    value = get_uint(json, key, value);
    if (value < least || value > longest_us) {
        throw BadInput(std::string("'") + key + "' must be between " + std::to_string(least) +
                       " and " + std::to_string(longest_us) + " microseconds");
    }
}

} // namespace

const char *to_string(Request::Mode mode) {
    switch (mode) {
    case Request::Mode::hot:
        return "hot";
    case Request::Mode::precopy:
        return "precopy";
    case Request::Mode::stop_and_copy:
        return "stop-and-copy";
    }
    return "?";
}

void check_place(const std::string &tag, const std::string &directory) {
    // A folder TAG.partial is a snapshot that is not complete.
    if (!network::is_valid_name(tag) ||
        std::isalnum(static_cast<unsigned char>(tag.front())) == 0 || tag.ends_with(".partial")) {
        throw BadInput("'" + tag +
                       "' cannot be a tag; use 1 to 64 letters, digits, '.', '_' or '-', the first "
                       "a letter or digit, and not .partial at the end");
    }
    if (!directory.starts_with('/')) {
        throw BadInput("directory '" + directory +
                       "' is not an absolute path; name the folder that holds the bundles");
    }
}

Request::Kind Request::snapshot_kind(const Json &json) {
    const std::string cut = get_string(json, "cut", "causal");
    if (cut != "causal" && cut != "barrier") {
        throw BadInput("'cut' must be 'causal' or 'barrier', not '" + cut + "'");
    }
    return cut == "barrier" ? Kind::barrier : Kind::snapshot;
}

Request Request::parse(Kind kind, const std::string &self_name, const Json &json) {
    Request request;
    request.kind = kind;
    if (kind != Kind::restore) {
        request.tag = get_string(json, "tag");
        request.directory = get_string(json, "directory");
        check_place(request.tag, request.directory);
    } else {
        request.bundle = get_string(json, "bundle");
        if (request.bundle.empty()) {
            throw BadInput("'bundle' is empty; name the folder of the bundle to restore");
        }
    }
    const std::string content = get_string(json, "content", "all");
    if (content != "all" && content != "disks") {
        throw BadInput("'content' must be 'all' or 'disks', not '" + content + "'");
    }
    request.content = content == "disks" ? Request::Content::disks : Request::Content::all;
    request.mode = read_mode(json);
    if (kind == Kind::barrier && request.content != Request::Content::disks) {
        throw BadInput("a barrier holds disk requests for a snapshot of disks only; 'content' must "
                       "be 'disks'");
    }
    request.coloring = get_bool(json, "coloring", true);
    request.strict = get_bool(json, "strict", false);
    request.options = get_object(json, "options", Json::object());

    constexpr uint64_t tick = 1000;
    read_duration(json, "prepare_timeout_us", request.prepare_timeout_us, tick);
    read_duration(json, "arm_timeout_us", request.arm_timeout_us, tick);
    read_duration(json, "cut_timeout_us", request.cut_timeout_us, tick);
    read_duration(json, "full_timeout_us", request.full_timeout_us, 0);
    read_duration(json, "abort_timeout_us", request.abort_timeout_us, tick);
    read_duration(json, "load_timeout_us", request.load_timeout_us, 0);
    read_duration(json, "start_timeout_us", request.start_timeout_us, tick);
    read_duration(json, "drain_us", request.drain_us, 0);
    read_duration(json, "settle_us", request.settle_us, 0);
    read_duration(json, "hold_us", request.hold_us, tick);
    read_duration(json, "duration_us", request.duration_us, 0);
    read_duration(json, "heartbeat_us", request.heartbeat_us, 10 * tick);
    read_duration(json, "silence_timeout_us", request.silence_us, 2 * request.heartbeat_us);

    if (request.duration_us != 0 && request.mode != Mode::hot) {
        throw BadInput(std::string("a duration is for mode 'hot', not '") +
                       to_string(request.mode) + "'");
    }

    std::set<std::string> names;
    std::set<std::string> addresses;
    bool has_self = false;
    for (const Json &entry : get_array(json, "members")) {
        Target target{get_string(entry, "name"), get_string(entry, "address", "")};
        if (!network::is_valid_name(target.name)) {
            throw BadInput("member name '" + target.name + "' is not of the form " +
                           network::name_form);
        }
        if (!names.insert(target.name).second) {
            throw BadInput("member '" + target.name + "' is named twice; name each member once");
        }
        if (target.name == self_name) {
            has_self = true;
            request.self = request.members.size();
        } else if (target.address.empty()) {
            throw BadInput("member '" + target.name + "' has no address");
        }
        if (!target.address.empty() && !addresses.insert(target.address).second) {
            throw BadInput("address " + target.address +
                           " is given twice; each member listens on its own");
        }
        request.members.push_back(std::move(target));
    }
    if (!has_self) {
        request.members.insert(request.members.begin(), Target{self_name, ""});
        request.self = 0;
    }
    return request;
}

} // namespace hotsnap::cluster
