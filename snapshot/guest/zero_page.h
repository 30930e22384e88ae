// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef HOTSNAP_GUEST_ZERO_PAGE_H
#define HOTSNAP_GUEST_ZERO_PAGE_H

#include <cstddef>
#include <cstring>

namespace hotsnap::memory {

// Whether `length` bytes are all zero. Memory that equals itself shifted by 8 bytes and begins
// with 8 zero bytes is zero throughout; memcmp is the C library's best vector code and stops at
// the first difference.
inline bool is_zero(const std::byte *bytes, size_t length) {
    constexpr std::byte zero[8]{};
    const size_t head = length < sizeof(zero) ? length : sizeof(zero);
    return std::memcmp(bytes, zero, head) == 0 &&
           (length <= sizeof(zero) ||
            std::memcmp(bytes, bytes + sizeof(zero), length - sizeof(zero)) == 0);
}

} // namespace hotsnap::memory
#endif
