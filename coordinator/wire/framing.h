// SPDX-License-Identifier: GPL-2.0-or-later
// Framing of a byte stream: each message is preceded by its length, 4 bytes, big-endian.
#ifndef HOTSNAP_WIRE_FRAMING_H
#define HOTSNAP_WIRE_FRAMING_H

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace hotsnap::wire {

inline constexpr size_t header_size = 4;
inline constexpr size_t largest_message = size_t{16} << 20;

// Precondition: message.size() <= largest_message.
std::string frame(std::string_view message);

class Decoder {
  public:
    // The largest message that is accepted; at first, largest_message.
    void set_limit(size_t bytes) { limit_ = bytes; }
    void feed(std::span<const uint8_t> bytes);
    // The next whole message. None: more bytes are needed, or the stream is broken for good.
    std::optional<std::string> next();
    // Why the stream cannot be read any more; empty while it can.
    const std::string &error() const { return error_; }

  private:
    std::string buffer_;
    size_t limit_ = largest_message;
    size_t read_ = 0; // bytes of buffer_ that next() has taken
    std::string error_;
};

} // namespace hotsnap::wire
#endif
