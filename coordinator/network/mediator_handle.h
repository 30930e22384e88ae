// SPDX-License-Identifier: GPL-2.0-or-later
// The contents of the opaque hs_mediator of the C interfaces.
#ifndef HOTSNAP_NETWORK_MEDIATOR_HANDLE_H
#define HOTSNAP_NETWORK_MEDIATOR_HANDLE_H

#include "network/mediator.h"

struct hs_mediator {
    hotsnap::network::Mediator impl;
};

#endif
