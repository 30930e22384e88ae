// SPDX-License-Identifier: GPL-2.0-or-later
#include "wire/framing.h"

namespace hotsnap::wire {

std::string frame(std::string_view message) {
    std::string framed;
    framed.reserve(header_size + message.size());
    for (int shift = 24; shift >= 0; shift -= 8) {
        framed += static_cast<char>(message.size() >> shift & 0xff);
    }
    framed += message;
    return framed;
}

void Decoder::feed(std::span<const uint8_t> bytes) {
    if (!error_.empty()) {
        return;
    }
    // Messages are taken out after each feed, so at most one unfinished message remains.
    buffer_.erase(0, read_);
    read_ = 0;
    buffer_.append(reinterpret_cast<const char *>(bytes.data()), bytes.size());
}

std::optional<std::string> Decoder::next() {
    if (!error_.empty() || buffer_.size() - read_ < header_size) {
        return std::nullopt;
    }
    size_t length = 0;
    for (size_t i = 0; i < header_size; i++) {
        length = length << 8 | static_cast<uint8_t>(buffer_[read_ + i]);
    }
    if (length == 0 || length > limit_) {
        error_ = "a message of " + std::to_string(length) +
                 " bytes was announced, allowed are 1 to " + std::to_string(limit_) +
                 "; is this a HotSnap member?";
        buffer_.clear();
        read_ = 0;
        return std::nullopt;
    }
    if (buffer_.size() - read_ - header_size < length) {
        return std::nullopt;
    }
    std::string message = buffer_.substr(read_ + header_size, length);
    read_ += header_size + length;
    return message;
}

} // namespace hotsnap::wire
