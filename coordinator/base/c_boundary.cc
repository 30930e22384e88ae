// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/c_boundary.h"

#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>

namespace hotsnap {

char *c_string(const std::string &text) noexcept {
    return strdup(text.c_str());
}

void set_error(char **error, const char *text) noexcept {
    if (error != nullptr) {
        *error = strdup(text);
    }
}

void set_error_from_exception(char **error) noexcept {
    try {
        throw;
    } catch (const std::bad_alloc &) {
        set_error(error, "out of memory; free some and try again");
    } catch (const std::exception &e) {
        set_error(error, e.what());
    } catch (...) {
        set_error(error, "internal error: unknown exception");
    }
}

} // namespace hotsnap

void hs_string_free(char *s) {
    std::free(s);
}
