/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connections that were refused, for the log. The other sides are strangers:
 * they must not be able to fill the disk that it is on, nor write what they
 * like to it.
 */
#ifndef HOTSNAP_TRANSPORT_REFUSALS_H
#define HOTSNAP_TRANSPORT_REFUSALS_H

typedef struct HotsnapRefusals {
    int64_t since_ms;    /* when the present ten seconds began */
    unsigned count;      /* refused in them */
} HotsnapRefusals;

/* One line on standard error; of many in a short time the first ones. */
void hotsnap_refused(HotsnapRefusals *r, const char *from, const char *reason);

#endif
