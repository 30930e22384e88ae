// SPDX-License-Identifier: GPL-2.0-or-later
#include "scenario_world.h"

#include <cstdlib>
#include <sstream>
#include <stdexcept>

#include "member/handles.h"
#include "wire/framing.h"
#include "wire/messages.h"

namespace hotsnap::scenario {

namespace {

std::vector<std::string> split(const std::string &text) {
    std::istringstream in(text);
    std::vector<std::string> words;
    for (std::string word; in >> word;) {
        words.push_back(word);
    }
    return words;
}

std::string rest_after(const std::string &text, size_t words) {
    std::istringstream in(text);
    std::string skipped, rest;
    for (size_t i = 0; i < words; i++) {
        in >> skipped;
    }
    std::getline(in >> std::ws, rest);
    return rest;
}

std::string without(Json json, std::initializer_list<const char *> keys) {
    for (const char *key : keys) {
        json.erase(key);
    }
    return json.empty() ? "" : " " + to_text(json);
}

// A manifest without the parts that would hide the story; manifest_test.cc checks all parts.
std::string describe_result(const std::string &text) {
    return without(parse_json(text), {"members", "timeline", "format", "version"});
}

// A message on the wire as a line: its type and its fields, except the run, which is long.
std::string describe(const std::string &framed) {
    wire::Decoder decoder;
    decoder.feed({reinterpret_cast<const uint8_t *>(framed.data()), framed.size()});
    const auto text = decoder.next();
    if (!text) {
        return "(" + std::to_string(framed.size()) + " raw bytes)";
    }
    try {
        const Json json = parse_json(*text);
        return get_string(json, "type") + without(json, {"type", "run"});
    } catch (const BadInput &) {
        return "(raw: " + *text + ")";
    }
}

} // namespace

World::Node &World::node(const std::string &name) {
    const auto at = nodes_.find(name);
    if (at == nodes_.end()) {
        throw std::runtime_error("no member '" + name + "'");
    }
    return at->second;
}

void World::log(const std::string &line) {
    output_ += line + "\n";
    stopped_ |= !until_.empty() && line.rfind(until_, 0) == 0;
}

std::string World::execute(const std::string &command) {
    constexpr std::string_view quietly = "quietly "; // for output that another script has shown
    if (command.rfind(quietly, 0) == 0) {
        execute(command.substr(quietly.size()));
        return "";
    }
    const Words words = split(command);
    output_.clear();
    until_.clear();
    stopped_ = false;
    const std::string &verb = words.at(0);
    if (verb == "members") {
        for (size_t i = 1; i < words.size(); i++) {
            add_member(words[i]);
        }
    } else if (verb == "snapshot" || verb == "restore") {
        initiate(words, verb == "restore");
    } else if (verb == "cancel") {
        hs_coordinator_cancel(node(words.at(1)).coordinator.get(), rest_after(command, 2).c_str(),
                              now_us_);
        drain(words[1]);
    } else if (verb == "duration") { // duration MEMBER US
        char *error = nullptr;
        if (!hs_coordinator_set_duration(node(words.at(1)).coordinator.get(),
                                         std::stoull(words.at(2)), now_us_, &error)) {
            output_ += "error: " + std::string(error) + "\n";
        }
        std::free(error);
        drain(words[1]);
    } else if (verb == "run") { // run [until LINE PREFIX]
        run(words.size() > 1 ? rest_after(command, 2) : "");
    } else if (verb == "advance") { // advance MS [until LINE PREFIX]
        advance(std::stoull(words.at(1)) * 1000, words.size() > 2 ? rest_after(command, 3) : "");
    } else if (verb == "hold") { // hold MEMBER WHAT: do not answer
        held_.insert({words.at(1), words.at(2)});
    } else if (verb == "unhold") {
        held_.erase({words.at(1), words.at(2)});
        if (words[2] == "connect") {
            events_.insert(events_.end(), held_connects_.begin(), held_connects_.end());
            held_connects_.clear();
        }
    } else if (verb == "local") { // local MEMBER ANSWER [JSON]
        local(words.at(1), words.at(2), rest_after(command, 3));
        drain(words[1]);
    } else if (verb == "cut-link") {
        cut_link(words.at(1), words.at(2), rest_after(command, 3));
    } else if (verb == "crash") {
        crash(words.at(1));
    } else if (verb == "freeze") {
        frozen_.insert(words.at(1));
    } else if (verb == "thaw") {
        frozen_.erase(words.at(1));
    } else if (verb == "inject") { // inject FROM TO TEXT: a message on the link FROM opened
        for (const auto &[id, link] : links_) {
            if (link.from == words.at(1) && link.to == words.at(2)) {
                events_.push_back({.kind = Event::Kind::message,
                                   .from = words[1],
                                   .to = words[2],
                                   .link = id,
                                   .data = wire::frame(rest_after(command, 3))});
            }
        }
    } else if (verb == "connect") { // connect FROM TO: a link without HS_DO_CONNECT
        const hs_link id = next_link_++;
        links_[id] = {words.at(1), words.at(2)};
        link_at(words[2], words[1], id, nullptr);
    } else if (verb == "certify") { // certify MEMBER NAME...: the names that it proves
        certificates_[words.at(1)] = Words(words.begin() + 2, words.end());
    } else if (verb == "distrust") { // distrust MEMBER REASON: it refuses every link
        distrust_[words.at(1)] = rest_after(command, 2);
    } else if (verb == "status") {
        char *status = hs_coordinator_status_json(node(words.at(1)).coordinator.get());
        log(parse_json(status).dump(2));
        std::free(status);
    } else {
        throw std::runtime_error("unknown command '" + verb + "'");
    }
    return output_;
}

void World::add_member(const std::string &name) {
    char *error = nullptr;
    Node node(name);
    node.coordinator.reset(hs_coordinator_new(name.c_str(), &error));
    if (!node.coordinator) {
        log("error: " + std::string(error));
        std::free(error);
        return;
    }
    const auto [mac, first] = macs_.try_emplace(name, macs_.size() + 1);
    node.mac = "52:54:00:00:00:0" + std::to_string(mac->second);
    nodes_.insert_or_assign(name, std::move(node));
}

// snapshot INITIATOR KEY=VALUE...; members=a,b,c@x are targets with addresses unix:a, unix:b,
// unix:x
void World::initiate(const Words &words, bool restore) {
    Json request = Json::object();
    if (restore) {
        request["bundle"] = "/bundles/t1";
    } else {
        request["tag"] = "t1";
        request["directory"] = "/bundles";
    }
    request["members"] = Json::array();
    for (size_t i = 2; i < words.size(); i++) {
        const size_t equals = words[i].find('=');
        const std::string key = words[i].substr(0, equals), value = words[i].substr(equals + 1);
        if (key == "members") {
            std::istringstream names(value);
            for (std::string name; std::getline(names, name, ',');) {
                const size_t at = name.find('@');
                const std::string address = at == std::string::npos ? name : name.substr(at + 1);
                request["members"].push_back(
                    {{"name", name.substr(0, at)}, {"address", "unix:" + address}});
            }
        } else {
            const Json parsed = Json::parse(value, nullptr, false);
            request[key] = parsed.is_discarded() ? Json(value) : parsed;
        }
    }
    char *error = nullptr;
    hs_coordinator *c = node(words.at(1)).coordinator.get();
    const std::string text = to_text(request);
    const bool good = restore ? hs_coordinator_restore(c, text.c_str(), now_us_, &error)
                              : hs_coordinator_snapshot(c, text.c_str(), now_us_, &error);
    if (!good) {
        log("error: " + std::string(error));
        std::free(error);
    }
    drain(words[1]);
}

void World::run(const std::string &until) {
    until_ = until;
    size_t skipped = 0; // events of frozen members stay where they are
    while (skipped < events_.size() && !stopped_) {
        if (frozen_.contains(events_[skipped].to)) {
            skipped++;
            continue;
        }
        const Event event = events_[skipped];
        events_.erase(events_.begin() + static_cast<std::ptrdiff_t>(skipped));
        skipped = 0;
        deliver(event);
    }
}

void World::advance(uint64_t us, const std::string &until) {
    const uint64_t end = now_us_ + us;
    until_ = until;
    while (!stopped_) {
        uint64_t next = UINT64_MAX;
        std::string who;
        for (const auto &[name, node] : nodes_) {
            if (!frozen_.contains(name) && node.timer_us < next) {
                next = node.timer_us;
                who = name;
            }
        }
        if (next > end) {
            break;
        }
        now_us_ = std::max(now_us_, next);
        node(who).timer_us = UINT64_MAX;
        hs_coordinator_tick(node(who).coordinator.get(), now_us_);
        drain(who);
        run(until);
    }
    if (!stopped_) {
        now_us_ = end;
    }
}

void World::cut_link(const std::string &a, const std::string &b, const std::string &reason) {
    for (auto at = links_.begin(); at != links_.end();) {
        const Link link = at->second;
        const bool hit = (link.from == a && link.to == b) || (link.from == b && link.to == a);
        if (!hit) {
            ++at;
            continue;
        }
        const hs_link id = at->first;
        at = links_.erase(at);
        std::erase_if(events_, [id](const Event &e) {
            return e.kind == Event::Kind::message && e.link == id;
        });
        for (const std::string &end : {link.from, link.to}) {
            if (nodes_.contains(end)) {
                events_.push_back(
                    {.kind = Event::Kind::down, .from = {}, .to = end, .link = id, .data = reason});
            }
        }
    }
}

void World::crash(const std::string &name) {
    nodes_.erase(name);
    std::erase_if(events_, [&name](const Event &e) { return e.to == name; });
    std::set<std::string> others;
    for (const auto &[id, link] : links_) {
        others.insert(link.from == name ? link.to : link.to == name ? link.from : "");
    }
    for (const std::string &other : others) {
        cut_link(name, other, "connection reset");
    }
}

void World::deliver(const Event &event) {
    if (!nodes_.contains(event.to) && event.kind != Event::Kind::connect) {
        if (event.kind == Event::Kind::message) {
            log(event.from + " > " + event.to + ": " + describe(event.data));
        }
        return;
    }
    switch (event.kind) {
    case Event::Kind::connect: {
        if (!nodes_.contains(event.from)) {
            return;
        }
        hs_coordinator *from = node(event.from).coordinator.get();
        if (!nodes_.contains(event.to)) {
            log(event.from + " cannot connect to " + event.to);
            hs_coordinator_link_down(from, 0, event.data.c_str(), "connection refused", now_us_);
            drain(event.from);
            return;
        }
        const hs_link id = next_link_++;
        links_[id] = {event.from, event.to};
        link_at(event.to, event.from, id, nullptr);
        link_at(event.from, event.to, id, event.data.c_str());
        return;
    }
    case Event::Kind::message:
        log(event.from + " > " + event.to + ": " + describe(event.data));
        // In two pieces, as a stream socket may do.
        for (const size_t half = event.data.size() / 2;
             const auto &[at, size] :
             {std::pair(size_t{0}, half), std::pair(half, event.data.size() - half)}) {
            if (size > 0) {
                hs_coordinator_bytes(node(event.to).coordinator.get(), event.link,
                                     reinterpret_cast<const uint8_t *>(event.data.data()) + at,
                                     size, now_us_);
            }
        }
        drain(event.to);
        return;
    case Event::Kind::answer:
        local(event.to, event.answer, event.data);
        drain(event.to);
        return;
    case Event::Kind::down:
        log(event.to + " loses a link: " + event.data);
        hs_coordinator_link_down(node(event.to).coordinator.get(), event.link, nullptr,
                                 event.data.c_str(), now_us_);
        drain(event.to);
        return;
    }
}

// A link to `other` exists at `end`; `address` is where to, if it was made there.
void World::link_at(const std::string &end, const std::string &other, hs_link id,
                    const char *address) {
    hs_coordinator *coordinator = node(end).coordinator.get();
    const auto distrust = distrust_.find(end);
    const auto certificate = certificates_.find(other);
    if (distrust != distrust_.end()) {
        hs_coordinator_link_refused(coordinator, id, !address, address, distrust->second.c_str(),
                                    now_us_);
    } else if (certificate != certificates_.end()) {
        std::vector<const char *> names;
        for (const std::string &name : certificate->second) {
            names.push_back(name.c_str());
        }
        names.push_back(nullptr);
        hs_coordinator_link_up_as(coordinator, id, !address, address, names.data(), now_us_);
    } else {
        hs_coordinator_link_up(coordinator, id, !address, address, now_us_);
    }
    drain(end);
}

void World::drain(const std::string &name) {
    hs_action action;
    while (hs_coordinator_next_action(node(name).coordinator.get(), &action)) {
        act(name, action);
    }
}

void World::act(const std::string &name, const hs_action &action) {
    switch (action.kind) {
    case HS_DO_TIMER:
        node(name).timer_us = action.deadline_us;
        return;
    case HS_DO_CONNECT: {
        const std::string address = action.text;
        log(name + " connects to " + address);
        auto &queue = held_.contains({name, "connect"}) ? held_connects_ : events_;
        queue.push_back({.kind = Event::Kind::connect,
                         .from = name,
                         .to = address.substr(address.find(':') + 1),
                         .data = address});
        return;
    }
    case HS_DO_SEND: {
        const auto at = links_.find(action.link);
        if (at != links_.end()) {
            const std::string &other = at->second.from == name ? at->second.to : at->second.from;
            events_.push_back(
                {.kind = Event::Kind::message,
                 .from = name,
                 .to = other,
                 .link = action.link,
                 .data = std::string(reinterpret_cast<const char *>(action.data), action.size)});
        }
        return;
    }
    case HS_DO_CLOSE: {
        log(name + " closes a link" + (*action.text ? " of an offender" : ""));
        const auto at = links_.find(action.link);
        if (at != links_.end()) { // the other end learns of it after all that was sent
            const std::string other = at->second.from == name ? at->second.to : at->second.from;
            events_.push_back({.kind = Event::Kind::down,
                               .from = {},
                               .to = other,
                               .link = action.link,
                               .data = "closed by the other side"});
            links_.erase(at);
        }
        return;
    }
    case HS_SAY_PHASE: {
        const Json said = parse_json(action.text);
        log(name + " is in phase " + get_string(said, "phase") + " as " + get_string(said, "role") +
            without(said,
                    {"phase", "role", "tag", get_string(said, "reason").empty() ? "reason" : "-"}));
        return;
    }
    case HS_SAY_PROGRESS:
        log(name + " says progress " + action.text);
        return;
    case HS_SAY_WARNING:
        log(name + " warns: " + get_string(parse_json(action.text), "message"));
        return;
    case HS_SAY_FINISHED:
        log(name + (action.failed ? " FAILED: " + std::string(action.text)
                                  : " finished:" + describe_result(action.text)));
        return;
    case HS_DO_WORK:
        work(name, std::unique_ptr<hs_work>(action.work)->work);
        return;
    default:
        throw std::runtime_error("an action that is not known");
    }
}

void World::work(const std::string &name, const member::LocalWork &work) {
    const std::string kind = member::name_of(work);
    const std::string text = node(name).work_text.text_of(work);
    if (kind == "ABORT") {
        log(name + " does ABORT: " + text);
    } else if (kind == "PUBLISH") {
        log(name + " does PUBLISH" + describe_result(text));
    } else {
        log(name + " does " + kind +
            without(parse_json(text), {"tag", "run", "directory", "options", "self"}));
    }
    do_local(name, kind);
}

void World::do_local(const std::string &name, const std::string &work) {
    Node &member = node(name);
    if (work == "COMMIT" || work == "ABORT") {
        member.has_cut = false;
    }
    if (held_.contains({name, work})) {
        return;
    }
    if (work == "PREPARE") {
        answer(name, "PREPARED",
               {{"nics", {{{"nic", "net0"}, {"mac", member.mac}}}}, {"info", {{"boot_id", "x"}}}});
    } else if (work == "PRECOPY") {
        answer(name, "PRECOPIED", {});
    } else if (work == "INSTALL") {
        answer(name, "INSTALLED", {});
    } else if (work == "LISTEN") {
        answer(name, "HEARD", {});
    } else if (work == "ARM") {
        answer(name, "ARMED", {});
    } else if (work == "CUT" && !std::exchange(member.has_cut, true)) {
        answer(name, "CUT",
               {{"white_sent", Json::object()},
                {"pause", {{"begin_ns", now_us_ * 1000}, {"end_ns", now_us_ * 1000 + 2000000}}},
                {"cause", "snapshot"}});
    } else if (work == "EXPECT" || work == "CLOSE_CHANNELS") {
        answer(name, "CHANNELS_FIN", {{"recorded", 0}, {"lost", 0}});
    } else if (work == "END_COLORING" && !held_.contains({name, "FULL"})) {
        answer(name, "FULL_FIN", {{"memory", {{"file", name + "/state"}}}});
    } else if (work == "FLUSH") {
        answer(name, "FLUSHED", {});
    } else if (work == "HOLD") {
        answer(name, "HELD", {});
    } else if (work == "SWITCH") {
        answer(name, "SWITCHED",
               {{"hold", {{"begin_ns", now_us_ * 1000}, {"end_ns", now_us_ * 1000 + 2000000}}}});
        if (!held_.contains({name, "FULL"})) {
            answer(name, "FULL_FIN", {{"disks", {{{"file", name + "/disk"}}}}});
        }
    } else if (work == "PUBLISH") {
        answer(name, "PUBLISHED", {});
    } else if (work == "ABORT") {
        answer(name, "ABORTED", {});
    } else if (work == "LOAD") {
        answer(name, "LOADED", {});
    } else if (work == "START") {
        answer(name, "STARTED", {{"played", 0}, {"start_ns", now_us_ * 1000}});
    }
}

void World::answer(const std::string &name, const std::string &event, const Json &json) {
    events_.push_back({.kind = Event::Kind::answer,
                       .from = {},
                       .to = name,
                       .data = json.is_null() ? "{}" : to_text(json),
                       .answer = event});
}

void World::local(const std::string &name, const std::string &event, const std::string &json) {
    if (event == "CUT") {
        node(name).has_cut = true;
    }
    std::optional<member::LocalEvent> read =
        member::event_of(event, json.empty() ? nullptr : json.c_str());
    if (!read) {
        throw std::runtime_error("unknown event '" + event + "'");
    }
    hs_coordinator_event(node(name).coordinator.get(), new hs_event{std::move(*read)}, now_us_);
}

} // namespace hotsnap::scenario
