// SPDX-License-Identifier: GPL-2.0-or-later
#include "member/handles.h"

#include "hotsnap/coordinator.h"

void hs_work_free(hs_work *work) {
    delete work;
}

void hs_event_free(hs_event *event) {
    delete event;
}
