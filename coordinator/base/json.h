// SPDX-License-Identifier: GPL-2.0-or-later
// JSON from outside: bounded in depth, with typed access whose errors name the fault.
#ifndef HOTSNAP_BASE_JSON_H
#define HOTSNAP_BASE_JSON_H

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace hotsnap {

using Json = nlohmann::json;

// Input that is not well formed; what() is one line, for the user.
struct BadInput : Error {
    using Error::Error;
};

// Throws BadInput. Refuses nesting deeper than 64, since serializing recurses. Refuses more than a
// million brackets, commas and colons, since QEMU must be able to read the JSON that is passed on:
// its parser takes 2^21 tokens, which are these and at most one value for each.
Json parse_json(std::string_view text);
// NULL stands for {}; the result is an object.
Json parse_object(const char *text);
// Replaces bytes that are not UTF-8; never throws on them.
std::string to_text(const Json &json);

// Members of an object. They throw BadInput when the key is missing or of another type.
std::string get_string(const Json &object, const char *key);
uint64_t get_uint(const Json &object, const char *key);
bool get_bool(const Json &object, const char *key);
const Json &get_object(const Json &object, const char *key);
const Json &get_array(const Json &object, const char *key);
// The same with a default for a missing key; another type still throws.
std::string get_string(const Json &object, const char *key, const std::string &otherwise);
uint64_t get_uint(const Json &object, const char *key, uint64_t otherwise);
bool get_bool(const Json &object, const char *key, bool otherwise);
Json get_object(const Json &object, const char *key, const Json &otherwise);
// What others reported, for information: nothing when the key is missing or of another type.
std::optional<uint64_t> find_uint(const Json &object, const char *key);
std::string find_string(const Json &object, const char *key); // else empty

} // namespace hotsnap
#endif
