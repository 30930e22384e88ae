// SPDX-License-Identifier: GPL-2.0-or-later
#include "network/ip_address.h"

#include <algorithm>

#include <arpa/inet.h>

namespace hotsnap::network {

namespace {

constexpr size_t v4_at = 12;
constexpr std::array<uint8_t, v4_at> mapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

} // namespace

IpAddress IpAddress::from_v4(const uint8_t *bytes) {
    IpAddress address;
    std::copy(mapped.begin(), mapped.end(), address.bytes_.begin());
    std::copy_n(bytes, 4, &address.bytes_[v4_at]);
    return address;
}

IpAddress IpAddress::from_v6(const uint8_t *bytes) {
    IpAddress address;
    std::copy_n(bytes, address.bytes_.size(), address.bytes_.begin());
    return address;
}

std::optional<IpAddress> IpAddress::parse(std::string_view text) {
    const std::string ended(text); // inet_pton() stops at the first NUL
    std::array<uint8_t, 16> bytes{};
    if (ended.find('\0') != std::string::npos) {
        return std::nullopt;
    }
    if (inet_pton(AF_INET, ended.c_str(), bytes.data()) == 1) {
        return from_v4(bytes.data());
    }
    if (inet_pton(AF_INET6, ended.c_str(), bytes.data()) == 1) {
        return from_v6(bytes.data());
    }
    return std::nullopt;
}

std::string IpAddress::to_string() const {
    char text[INET6_ADDRSTRLEN] = "";
    if (is_v4()) {
        inet_ntop(AF_INET, &bytes_[v4_at], text, sizeof(text));
    } else {
        inet_ntop(AF_INET6, bytes_.data(), text, sizeof(text));
    }
    return text;
}

bool IpAddress::is_v4() const {
    return std::equal(mapped.begin(), mapped.end(), bytes_.begin());
}

bool IpAddress::is_routable() const {
    if (is_v4()) {
        const uint8_t first = bytes_[v4_at];
        const bool link_local = first == 169 && bytes_[v4_at + 1] == 254;
        return first != 0 && first != 127 && first < 224 && !link_local;
    }
    const bool unspecified_or_loopback =
        std::all_of(bytes_.begin(), bytes_.end() - 1, [](uint8_t byte) { return byte == 0; }) &&
        bytes_.back() <= 1;
    const bool link_local = bytes_[0] == 0xfe && (bytes_[1] & 0xc0) == 0x80;
    return !unspecified_or_loopback && !link_local && bytes_[0] != 0xff;
}

size_t IpAddress::Hash::operator()(const IpAddress &address) const {
    uint64_t halves[2] = {0, 0};
    for (size_t i = 0; i < address.bytes_.size(); i++) {
        uint64_t &half = halves[i / 8];
        half = half << 8 | address.bytes_[i];
    }
    return static_cast<size_t>((halves[0] * 0x9e37'79b9'7f4a'7c15) ^
                               (halves[1] * 0xc2b2'ae3d'27d4'eb4f));
}

} // namespace hotsnap::network
