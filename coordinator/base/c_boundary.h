// SPDX-License-Identifier: GPL-2.0-or-later
// The boundary between C++ and C: every function of a C interface runs its body in guarded(), so
// that no exception leaves it. hotsnap/base.h has the conventions of the C side.
#ifndef HOTSNAP_BASE_C_BOUNDARY_H
#define HOTSNAP_BASE_C_BOUNDARY_H

#include <string>

#include "hotsnap/base.h"

namespace hotsnap {

// Returns a malloc()ed copy, for hs_string_free(); NULL when memory is used up.
char *c_string(const std::string &text) noexcept;

// Stores a copy of `text` in `*error`, unless `error` is NULL.
void set_error(char **error, const char *text) noexcept;

// Stores the message of the exception that is being handled. To be called in a catch block.
void set_error_from_exception(char **error) noexcept;

// Runs `body`, which returns a T; when it throws, stores the message and returns `failure`.
template <typename T, typename Body> T guarded(char **error, T failure, Body body) noexcept {
    try {
        return body();
    } catch (...) {
        set_error_from_exception(error);
    }
    return failure;
}

// The same for a body without a result: the caller could mend none of its failures.
template <typename Body> void guarded(Body body) noexcept {
    try {
        body();
    } catch (...) {
        set_error_from_exception(nullptr);
    }
}

} // namespace hotsnap
#endif
