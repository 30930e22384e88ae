// SPDX-License-Identifier: GPL-2.0-or-later
//
// The one exception type of the library. Its message is what the user reads: one line that says
// what failed and what to do about it. c_api.cc turns it into `char **error`.
#pragma once

#include <cstring>
#include <stdexcept>
#include <string>

namespace hotsnap {

class Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// "<what>: <text of errnum>", optionally followed by "; <hint>".
inline Error system_error(int errnum, const std::string &what, const std::string &hint = {}) {
    std::string message = what + ": " + std::strerror(errnum);
    if (!hint.empty()) {
        message += "; " + hint;
    }
    return Error(message);
}

} // namespace hotsnap
