// SPDX-License-Identifier: GPL-2.0-or-later
// Strings and errors that cross the C interface: malloc()ed, for hs_string_free().
#ifndef HOTSNAP_C_STRING_H
#define HOTSNAP_C_STRING_H

#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>

namespace hotsnap {

inline char *c_string(const std::string &text) {
    char *copy = static_cast<char *>(std::malloc(text.size() + 1));
    if (!copy) {
        std::abort(); // as QEMU does
    }
    std::memcpy(copy, text.c_str(), text.size() + 1);
    return copy;
}

inline void set_error(char **error, const std::string &text) {
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
