/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "refusals.h"

#define SPAN_MS 10000
#define LINES_IN_SPAN 20
#define LONGEST 400

void hotsnap_refused(HotsnapRefusals *r, const char *from, const char *reason)
{
    int64_t now_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    g_autofree char *text = g_strndup(reason, LONGEST);

    if (!r->since_ms || now_ms - r->since_ms >= SPAN_MS) {
        if (r->count > LINES_IN_SPAN) {
            warn_report("hotsnap-member: refused %u more connections",
                        r->count - LINES_IN_SPAN);
        }
        r->since_ms = now_ms;
        r->count = 0;
    }
    if (r->count++ >= LINES_IN_SPAN) {
        return;
    }
    for (char *c = text; *c; c++) {
        if (!g_ascii_isprint(*c)) {
            *c = '?';
        }
    }
    warn_report("hotsnap-member: refused a connection from %s: %s", from,
                text);
}
