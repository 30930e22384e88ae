// SPDX-License-Identifier: GPL-2.0-or-later
// Strings and errors that cross the C interface: malloc()ed, for hs_string_free().
#ifndef HOTSNAP_C_STRING_H
#define HOTSNAP_C_STRING_H

#include <cstdlib>
#include <cstring>
#include <exception>
#include <string_view>

namespace hotsnap {

inline char *c_string(std::string_view text) {
    char *copy = static_cast<char *>(std::malloc(text.size() + 1));
    if (!copy) {
        std::abort(); // as QEMU does
    }
    std::memcpy(copy, text.data(), text.size());
    copy[text.size()] = 0;
    return copy;
}

// Copies nothing on the way: it runs where an exception is handled, and must not throw another.
inline void set_error(char **error, std::string_view text) {
    if (error) {
        *error = c_string(text);
    }
}

// Runs `body`, which returns T; on an exception stores its text and returns `failure`.
template <typename T, typename Body> T guarded(char **error, T failure, Body body) {
    try {
        return body();
    } catch (const std::exception &e) {
        set_error(error, e.what());
    }
    return failure;
}

} // namespace hotsnap
#endif
