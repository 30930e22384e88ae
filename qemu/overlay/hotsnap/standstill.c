/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Gives the snapshot up when the VM stands still for it.
 *
 * While the copies run the main loop may have to wait for the bundle's
 * storage (undo.c). If that stalls, no command of the user's is heard here,
 * and when this member leads, nobody else's either. So the iothread looks
 * whether the main loop still beats, which it does when it reports progress.
 *
 * Seconds are counted, not measured: a process that was stopped, and a host
 * that was suspended, find nothing amiss when they go on.
 *
 * All of it runs in the iothread, but for the beat.
 */
#include "qemu/osdep.h"
#include "internal.h"
#include "qapi/error.h"
#include "qemu/timer.h"

#define TICK_MS 1000
#define MISSED_MAX 30

static void watch_again(HotsnapMember *m)
{
    timer_mod(m->watch, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + TICK_MS);
}

static void watch_tick(void *opaque)
{
    HotsnapMember *m = opaque;
    unsigned beats = qatomic_read(&m->beats);
    Error *err = NULL;

    if (beats != m->watch_beats) {
        m->watch_beats = beats;
        m->watch_missed = 0;
    } else if (++m->watch_missed == MISSED_MAX) {
        error_setg(&err, "The VM stood still for %d s while its memory was "
                   "being saved; check the storage of the bundle",
                   MISSED_MAX);
        hotsnap_local_failed(m, err);
        return;
    }
    watch_again(m);
}

void hotsnap_standstill_init(HotsnapMember *m)
{
    m->watch = aio_timer_new(m->ctx, QEMU_CLOCK_REALTIME, SCALE_MS,
                             watch_tick, m);
}

void hotsnap_standstill_beat(HotsnapMember *m)
{
    qatomic_inc(&m->beats);
}

/*
 * From the cut until our part is complete, or the run fails: after that no
 * page is trapped, and a publication must not be said to have failed.
 */
void hotsnap_standstill_local(HotsnapMember *m, hs_local_kind kind)
{
    if (kind == HS_LOCAL_CUT) {
        m->watch_missed = 0;
        watch_again(m);
    } else if (kind == HS_LOCAL_FULL_FIN || kind == HS_LOCAL_FAILED) {
        hotsnap_standstill_end(m);
    }
}

void hotsnap_standstill_end(HotsnapMember *m)
{
    timer_del(m->watch);
}
