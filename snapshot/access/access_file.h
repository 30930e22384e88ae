// SPDX-License-Identifier: GPL-2.0-or-later
//
// The file of a working set, beside the image (docs/formats/access.md). It is a hint: without it,
// or with one that is stale, damaged or hostile, a restore is slower and nothing else. So neither
// function throws.
#ifndef HOTSNAP_ACCESS_ACCESS_FILE_H
#define HOTSNAP_ACCESS_ACCESS_FILE_H

#include "access/access_map.h"

#include <cstdint>
#include <string>

namespace hotsnap::memory {

// Empty when there is none that is of use.
AccessMap read_access_file(const std::string &path, uint64_t image, uint64_t image_pages) noexcept;

// Puts the file in the place of an older one, whole or not at all. False when it cannot.
bool write_access_file(const std::string &path, const AccessMap &map, uint64_t image) noexcept;

} // namespace hotsnap::memory
#endif
