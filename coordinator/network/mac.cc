// SPDX-License-Identifier: GPL-2.0-or-later
#include "network/mac.h"

namespace hotsnap::network {

namespace {

int hex_digit(char c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    if (c >= 'A' && c <= 'F') {
        return c - 'A' + 10;
    }
    return -1;
}

} // namespace

std::optional<Mac> Mac::parse(std::string_view text) {
    constexpr size_t length = 17;
    if (text.size() != length) {
        return std::nullopt;
    }
    uint64_t value = 0;
    for (size_t i = 0; i < length; i++) {
        if (i % 3 == 2) {
            if (text[i] != ':') {
                return std::nullopt;
            }
            continue;
        }
        const int digit = hex_digit(text[i]);
        if (digit < 0) {
            return std::nullopt;
        }
        value = value << 4 | static_cast<uint64_t>(digit);
    }
    return Mac(value);
}

std::string Mac::to_string() const {
    constexpr char digits[] = "0123456789abcdef";
    std::string text;
    text.reserve(17);
    for (int shift = 44; shift >= 0; shift -= 4) {
        text += digits[value_ >> shift & 0xf];
        if (shift % 8 == 0 && shift != 0) {
            text += ':';
        }
    }
    return text;
}

} // namespace hotsnap::network
