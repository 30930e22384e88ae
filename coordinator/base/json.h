// SPDX-License-Identifier: GPL-2.0-or-later
// JSON from outside: bounded in depth, and typed access that says what is wrong.
#ifndef HOTSNAP_BASE_JSON_H
#define HOTSNAP_BASE_JSON_H

#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace hotsnap {

using Json = nlohmann::json;

// Text that is not what it should be; what() is one line, for the user.
struct BadInput : Error {
    using Error::Error;
};

// Throws BadInput. Refuses nesting deeper than 64, since serializing recurses; and more than a
// million brackets, commas and colons, since what is passed on must be readable for QEMU, whose
// parser takes 2^21 tokens: those, and at most one value for each.
Json parse_json(std::string_view text);
// NULL stands for {}; the result is an object.
Json parse_object(const char *text);
// Never throws on bytes that are not UTF-8: they are replaced.
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

} // namespace hotsnap
#endif
