// SPDX-License-Identifier: GPL-2.0-or-later
// The one root of all exceptions of the libraries. The user reads the message: one line that names
// the failure and its remedy. base/c_boundary.h turns it into `char **error`.
#ifndef HOTSNAP_BASE_ERROR_H
#define HOTSNAP_BASE_ERROR_H

#include <stdexcept>
#include <string>

namespace hotsnap {

class Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
    ~Error() override; // in error.cc: one vtable for everything that is linked together
};

// "<what>: <text of errnum>", optionally followed by "; <hint>".
Error system_error(int errnum, const std::string &what, const std::string &hint = {});

} // namespace hotsnap
#endif
