// SPDX-License-Identifier: GPL-2.0-or-later
// An IPv4 or IPv6 address as a value: 16 bytes, IPv4 in the mapped form (RFC 4291, 2.5.5.2).
#ifndef HOTSNAP_NETWORK_IP_ADDRESS_H
#define HOTSNAP_NETWORK_IP_ADDRESS_H

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace hotsnap::network {

class IpAddress {
  public:
    constexpr IpAddress() = default;
    static IpAddress from_v4(const uint8_t *bytes); // reads 4
    static IpAddress from_v6(const uint8_t *bytes); // reads 16
    // "10.0.0.1", "2001:db8::1".
    static std::optional<IpAddress> parse(std::string_view text);
    std::string to_string() const;

    // One host has it, and routers forward to it: no group's, no link's, nor the host's own only.
    bool is_routable() const;

    auto operator<=>(const IpAddress &) const = default;

    struct Hash {
        size_t operator()(const IpAddress &address) const;
    };

  private:
    bool is_v4() const;

    std::array<uint8_t, 16> bytes_{};
};

} // namespace hotsnap::network
#endif
