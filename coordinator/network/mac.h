// SPDX-License-Identifier: GPL-2.0-or-later
// An Ethernet address as a value: 48 bits, first octet highest.
#ifndef HOTSNAP_NETWORK_MAC_H
#define HOTSNAP_NETWORK_MAC_H

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace hotsnap::network {

class Mac {
  public:
    constexpr Mac() = default;
    explicit constexpr Mac(uint64_t value) : value_(value & 0xffff'ffff'ffff) {}

    // Reads six bytes.
    static constexpr Mac from_bytes(const uint8_t *bytes) {
        uint64_t value = 0;
        for (int i = 0; i < 6; i++) {
            value = value << 8 | bytes[i];
        }
        return Mac(value);
    }
    void to_bytes(uint8_t *bytes) const { // writes six
        for (int i = 0; i < 6; i++) {
            bytes[i] = static_cast<uint8_t>(value_ >> (40 - 8 * i));
        }
    }
    // "52:54:00:12:34:56", either case.
    static std::optional<Mac> parse(std::string_view text);
    std::string to_string() const; // lower case

    constexpr uint64_t value() const { return value_; }
    constexpr uint8_t first_octet() const { return static_cast<uint8_t>(value_ >> 40); }
    constexpr bool is_group() const { return first_octet() & 1; } // broadcast and multicast

    constexpr auto operator<=>(const Mac &) const = default;

  private:
    uint64_t value_ = 0;
};

} // namespace hotsnap::network
#endif
