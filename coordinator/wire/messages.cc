// SPDX-License-Identifier: GPL-2.0-or-later
#include "wire/messages.h"

#include <type_traits>
#include <unordered_map>

#include "network/channel_json.h"

namespace hotsnap::cluster {

namespace {

template <typename M>
concept HasRun = requires(M m) {
    m.run;
};

// One pair of functions per message with content; `run` and `type` are handled for all at once.
template <typename M> void write(const M &, Json &) {}
template <typename M> void read(M &, const Json &) {}

template <> void write(const Hello &m, Json &j) {
    j["protocol"] = m.protocol;
    j["name"] = m.name;
}
template <> void read(Hello &m, const Json &j) {
    m.protocol = get_uint(j, "protocol");
    m.name = get_string(j, "name");
}

template <> void write(const ErrorMessage &m, Json &j) {
    j["reason"] = m.reason;
}
template <> void read(ErrorMessage &m, const Json &j) {
    m.reason = get_string(j, "reason");
}

template <> void write(const Prepare &m, Json &j) {
    j["tag"] = m.tag;
    j["directory"] = m.directory;
    j["coloring"] = m.coloring;
    j["drain_us"] = m.drain_us;
    j["heartbeat_us"] = m.heartbeat_us;
    j["silence_us"] = m.silence_us;
    j["options"] = m.options;
}
template <> void read(Prepare &m, const Json &j) {
    m.tag = get_string(j, "tag");
    m.directory = get_string(j, "directory");
    m.coloring = get_bool(j, "coloring", true);
    m.drain_us = get_uint(j, "drain_us");
    m.heartbeat_us = get_uint(j, "heartbeat_us");
    m.silence_us = get_uint(j, "silence_us");
    m.options = get_object(j, "options");
}

template <> void write(const Prepared &m, Json &j) {
    j["last_epoch"] = m.last_epoch;
    Json macs = Json::array();
    for (const Mac mac : m.macs) {
        macs.push_back(mac.to_string());
    }
    j["macs"] = std::move(macs);
    j["nics"] = m.nics;
    j["info"] = m.info;
}
template <> void read(Prepared &m, const Json &j) {
    m.last_epoch = get_uint(j, "last_epoch");
    for (const Json &mac : get_array(j, "macs")) {
        m.macs.push_back(mac_from_json(mac));
    }
    m.nics = get_array(j, "nics");
    m.info = get_object(j, "info");
}

template <> void write(const Refused &m, Json &j) {
    j["reason"] = m.reason;
}
template <> void read(Refused &m, const Json &j) {
    m.reason = get_string(j, "reason");
}

template <> void write(const Install &m, Json &j) {
    j["epoch"] = m.epoch;
    j["members"] = members_to_json(m.members);
}
template <> void read(Install &m, const Json &j) {
    m.epoch = get_uint(j, "epoch");
    m.members = members_from_json(get_array(j, "members"));
}

template <> void write(const TransientSnapFin &m, Json &j) {
    j["white_sent"] = counts_to_json(m.white_sent);
    j["pause"] = m.pause;
    j["cause"] = m.cause;
}
template <> void read(TransientSnapFin &m, const Json &j) {
    m.white_sent = counts_from_json(get_object(j, "white_sent"));
    m.pause = get_object(j, "pause");
    m.cause = get_string(j, "cause");
}

template <> void write(const AllTransientSnapFin &m, Json &j) {
    j["expected"] = counts_to_json(m.expected);
}
template <> void read(AllTransientSnapFin &m, const Json &j) {
    m.expected = counts_from_json(get_object(j, "expected"));
}

template <> void write(const ChannelsFin &m, Json &j) {
    j["recorded"] = m.recorded;
    j["lost"] = m.lost;
}
template <> void read(ChannelsFin &m, const Json &j) {
    m.recorded = get_uint(j, "recorded");
    m.lost = get_uint(j, "lost");
}

template <> void write(const FullSnapFin &m, Json &j) {
    j["report"] = m.report;
}
template <> void read(FullSnapFin &m, const Json &j) {
    m.report = get_object(j, "report");
}

template <> void write(const Abort &m, Json &j) {
    j["reason"] = m.reason;
}
template <> void read(Abort &m, const Json &j) {
    m.reason = get_string(j, "reason");
}

template <> void write(const Aborted &m, Json &j) {
    j["error"] = m.error;
}
template <> void read(Aborted &m, const Json &j) {
    m.error = get_string(j, "error");
}

template <> void write(const Progress &m, Json &j) {
    j["done"] = m.done;
    j["total"] = m.total;
}
template <> void read(Progress &m, const Json &j) {
    m.done = get_uint(j, "done");
    m.total = get_uint(j, "total");
}

template <> void write(const Restore &m, Json &j) {
    j["bundle"] = m.bundle;
    j["heartbeat_us"] = m.heartbeat_us;
    j["silence_us"] = m.silence_us;
    j["options"] = m.options;
}
template <> void read(Restore &m, const Json &j) {
    m.bundle = get_string(j, "bundle");
    m.heartbeat_us = get_uint(j, "heartbeat_us");
    m.silence_us = get_uint(j, "silence_us");
    m.options = get_object(j, "options");
}

template <> void write(const Loaded &m, Json &j) {
    j["report"] = m.report;
}
template <> void read(Loaded &m, const Json &j) {
    m.report = get_object(j, "report");
}

template <> void write(const Started &m, Json &j) {
    j["report"] = m.report;
}
template <> void read(Started &m, const Json &j) {
    m.report = get_object(j, "report");
}

using Reader = Message (*)(const Json &);

template <typename M> Message read_as(const Json &json) {
    M message{};
    if constexpr (HasRun<M>) {
        message.run = get_string(json, "run");
    }
    read(message, json);
    return message;
}

template <size_t... I> auto make_readers(std::index_sequence<I...>) {
    return std::unordered_map<std::string, Reader>{
        {std::variant_alternative_t<I, Message>::type,
         &read_as<std::variant_alternative_t<I, Message>>}...};
}

} // namespace

const char *type_of(const Message &message) {
    return std::visit([](const auto &m) { return std::decay_t<decltype(m)>::type; }, message);
}

const std::string &run_of(const Message &message) {
    static const std::string none;
    return std::visit(
        [](const auto &m) -> const std::string & {
            if constexpr (HasRun<std::decay_t<decltype(m)>>) {
                return m.run;
            } else {
                return none;
            }
        },
        message);
}

std::string encode(const Message &message) {
    Json json = Json::object();
    std::visit(
        [&json](const auto &m) {
            json["type"] = m.type;
            if constexpr (HasRun<std::decay_t<decltype(m)>>) {
                json["run"] = m.run;
            }
            write(m, json);
        },
        message);
    return to_text(json);
}

Message decode(std::string_view text) {
    static const auto readers =
        make_readers(std::make_index_sequence<std::variant_size_v<Message>>());
    const Json json = parse_json(text);
    const std::string type = get_string(json, "type");
    const auto reader = readers.find(type);
    if (reader == readers.end()) {
        throw UnknownMessage("unknown message type '" + type.substr(0, 40) + "'");
    }
    try {
        return reader->second(json);
    } catch (const BadInput &e) {
        throw BadInput(type + ": " + e.what());
    }
}

} // namespace hotsnap::cluster
