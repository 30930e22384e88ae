/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The time of each step of the pause. */
#ifndef HOTSNAP_PAUSE_CLOCK_H
#define HOTSNAP_PAUSE_CLOCK_H

#include "clock.h"

#include <hotsnap/member.h>

static inline void hotsnap_pause_begin(hs_pause *p)
{
    p->count = 0;
    p->begin_ns = p->end_ns = hotsnap_now_ns();
}

/* Ends the step @name, which began when the step before it ended. */
static inline void hotsnap_pause_step(hs_pause *p, const char *name)
{
    int64_t now = hotsnap_now_ns();

    if (p->count < ARRAY_SIZE(p->step)) {
        p->step[p->count].name = name;
        p->step[p->count].us = (now - p->end_ns) / 1000;
        p->count++;
    }
    p->end_ns = now;
}

#endif
