// SPDX-License-Identifier: GPL-2.0-or-later
// The contents of the opaque hs_work and hs_event of the C interfaces.
#ifndef HOTSNAP_MEMBER_HANDLES_H
#define HOTSNAP_MEMBER_HANDLES_H

#include "member/work.h"

struct hs_work {
    hotsnap::member::LocalWork work;
};

struct hs_event {
    hotsnap::member::LocalEvent event;
};

#endif
