// SPDX-License-Identifier: GPL-2.0-or-later
// What the opaque hs_mediator of the C interfaces holds.
#ifndef HOTSNAP_NETWORK_MEDIATOR_HANDLE_H
#define HOTSNAP_NETWORK_MEDIATOR_HANDLE_H

#include "network/mediator.h"

struct hs_mediator {
    hotsnap::network::Mediator impl;
};

#endif
