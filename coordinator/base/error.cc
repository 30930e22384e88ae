// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/error.h"

#include <cstring>

namespace hotsnap {

Error::~Error() = default;

Error system_error(int errnum, const std::string &what, const std::string &hint) {
    std::string message = what + ": " + std::strerror(errnum);
    if (!hint.empty()) {
        message += "; " + hint;
    }
    return Error(message);
}

} // namespace hotsnap
