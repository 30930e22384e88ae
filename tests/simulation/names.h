// SPDX-License-Identifier: GPL-2.0-or-later
// The simulator uses the libraries' types by their short names.
#ifndef HOTSNAP_SIM_NAMES_H
#define HOTSNAP_SIM_NAMES_H

#include "network/mac.h"
#include "wire/messages.h"

namespace hotsnap::sim {

using namespace hotsnap::cluster;
using namespace hotsnap::network;

} // namespace hotsnap::sim
#endif
