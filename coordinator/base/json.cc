// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/json.h"

namespace hotsnap {

namespace {

void check_bounds(std::string_view text) {
    constexpr int deepest = 64;
    constexpr int most = 1'000'000;
    int depth = 0;
    int count = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.size(); i++) {
        const char c = text[i];
        if (in_string) {
            if (c == '\\') {
                i++;
            } else if (c == '"') {
                in_string = false;
            }
            continue;
        }
        if (c == '"') {
            in_string = true;
            continue;
        }
        const bool opens = c == '[' || c == '{';
        const bool closes = c == ']' || c == '}';
        if ((opens || closes || c == ',' || c == ':') && ++count > most) {
            throw BadInput("JSON has more parts than a message may have");
        }
        if (opens) {
            if (++depth > deepest) {
                throw BadInput("JSON is nested deeper than " + std::to_string(deepest));
            }
        } else if (closes) {
            depth--;
        }
    }
}

const Json *find(const Json &object, const char *key) {
    if (!object.is_object()) {
        return nullptr;
    }
    const auto at = object.find(key);
    return at == object.end() ? nullptr : &*at;
}

const Json &need(const Json &object, const char *key) {
    if (const Json *value = find(object, key)) {
        return *value;
    }
    throw BadInput(std::string("'") + key + "' is missing");
}

[[noreturn]] void wrong_type(const char *key, const char *type) {
    throw BadInput(std::string("'") + key + "' must be " + type);
}

std::string as_string(const Json &value, const char *key) {
    if (!value.is_string()) {
        wrong_type(key, "a string");
    }
    return value.get<std::string>();
}

// A number that was made here, and not read, may have a sign.
bool is_uint(const Json &value) {
    return value.is_number_unsigned() || (value.is_number_integer() && value.get<int64_t>() >= 0);
}

uint64_t as_uint(const Json &value, const char *key) {
    if (!is_uint(value)) {
        wrong_type(key, "a whole number, 0 or more");
    }
    return value.get<uint64_t>();
}

bool as_bool(const Json &value, const char *key) {
    if (!value.is_boolean()) {
        wrong_type(key, "true or false");
    }
    return value.get<bool>();
}

const Json &as_object(const Json &value, const char *key) {
    if (!value.is_object()) {
        wrong_type(key, "an object");
    }
    return value;
}

} // namespace

Json parse_json(std::string_view text) {
    check_bounds(text);
    Json json = Json::parse(text, nullptr, false);
    if (json.is_discarded()) {
        throw BadInput("not valid JSON");
    }
    return json;
}

Json parse_object(const char *text) {
    Json json = text ? parse_json(text) : Json::object();
    if (!json.is_object()) {
        throw BadInput("not a JSON object");
    }
    return json;
}

std::string to_text(const Json &json) {
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string get_string(const Json &object, const char *key) {
    return as_string(need(object, key), key);
}

uint64_t get_uint(const Json &object, const char *key) {
    return as_uint(need(object, key), key);
}

bool get_bool(const Json &object, const char *key) {
    return as_bool(need(object, key), key);
}

const Json &get_object(const Json &object, const char *key) {
    return as_object(need(object, key), key);
}

const Json &get_array(const Json &object, const char *key) {
    const Json &value = need(object, key);
    if (!value.is_array()) {
        wrong_type(key, "an array");
    }
    return value;
}

std::string get_string(const Json &object, const char *key, const std::string &otherwise) {
    const Json *value = find(object, key);
    return value ? as_string(*value, key) : otherwise;
}

uint64_t get_uint(const Json &object, const char *key, uint64_t otherwise) {
    const Json *value = find(object, key);
    return value ? as_uint(*value, key) : otherwise;
}

bool get_bool(const Json &object, const char *key, bool otherwise) {
    const Json *value = find(object, key);
    return value ? as_bool(*value, key) : otherwise;
}

Json get_object(const Json &object, const char *key, const Json &otherwise) {
    const Json *value = find(object, key);
    return value ? as_object(*value, key) : otherwise;
}

std::optional<uint64_t> find_uint(const Json &object, const char *key) {
    const auto value = object.find(key);
    return value != object.end() && is_uint(*value) ? std::optional(value->get<uint64_t>())
                                                    : std::nullopt;
}

std::string find_string(const Json &object, const char *key) {
    const auto value = object.find(key);
    return value != object.end() && value->is_string() ? value->get<std::string>() : std::string();
}

} // namespace hotsnap
