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

// A value of each type that a message may have, to JSON and back.

template <typename Value> Json to_json(const Value &value) {
    return value;
}
Json to_json(const PairCounts &counts) {
    return counts_to_json(counts);
}
Json to_json(const std::vector<Member> &members) {
    return members_to_json(members);
}
Json to_json(const std::vector<MemberNic> &nics) {
    return network::nics_to_json(nics);
}

void read(std::string &value, const Json &json, const char *key) {
    value = get_string(json, key);
}
void read(uint64_t &value, const Json &json, const char *key) {
    value = get_uint(json, key);
}
void read(bool &value, const Json &json, const char *key) {
    value = get_bool(json, key);
}
void read(Json &value, const Json &json, const char *key) { // an array, if it begins as one
    value = value.is_array() ? get_array(json, key) : get_object(json, key);
}
void read(PairCounts &value, const Json &json, const char *key) {
    value = counts_from_json(get_object(json, key));
}
void read(std::vector<Member> &value, const Json &json, const char *key) {
    value = members_from_json(get_array(json, key));
}
void read(std::vector<MemberNic> &value, const Json &json, const char *key) {
    value = network::nics_from_json(get_array(json, key));
}

using Reader = Message (*)(const Json &);

template <typename M> Message read_as(const Json &json) {
    M message{};
    const auto read_field = [&](const auto &field) {
        if (field.presence == Presence::required || json.contains(field.key)) {
            read(message.*field.value, json, field.key);
        }
    };
    std::apply([&](const auto &...field) { (read_field(field), ...); }, M::fields());
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
            const auto write_field = [&](const auto &field) {
                const std::decay_t<decltype(m)> initial{};
                if (field.presence != Presence::rare || m.*field.value != initial.*field.value) {
                    json[field.key] = to_json(m.*field.value);
                }
            };
            std::apply([&](const auto &...field) { (write_field(field), ...); }, m.fields());
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
