/* SPDX-License-Identifier: GPL-2.0-or-later */
/* CLOCK_MONOTONIC: the clock of the coordinator and of all reports. */
#ifndef HOTSNAP_CLOCK_H
#define HOTSNAP_CLOCK_H

static inline int64_t hotsnap_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static inline uint64_t hotsnap_now_us(void)
{
    return hotsnap_now_ns() / 1000;
}

#endif
