/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Lets disk requests in flight end before the pause instead of in it.
 *
 * A guest's own flush can take as long as the storage likes, and stopping the
 * VM waits for it. So at the end of ARM no new request is let through, and
 * those in flight are waited for while the vCPUs run; the pause then finds
 * nothing to drain. New requests wait in the block layer meanwhile, as on a
 * slow disk: for HOLD_MS at most, since another member may take longer to
 * arm. After that they flow again and the pause drains what there is.
 *
 * Main loop, but for hotsnap_quiesce().
 */
#include "qemu/osdep.h"
#include "internal.h"
#include "block/block_int.h"
#include "qemu/timer.h"

#define HOLD_MS 150
#define POLL_US 200

typedef struct PollCall {
    HotsnapEpoch *e;
    bool busy;
} PollCall;

static void hold_expired(void *opaque)
{
    hotsnap_quiesce_end(opaque);
}

static void hold_begin(void *opaque)
{
    HotsnapEpoch *e = opaque;

    if (e->aborting) {
        return;
    }
    bdrv_drain_all_begin_nopoll();
    e->hold_timer = timer_new_ms(QEMU_CLOCK_REALTIME, hold_expired, e);
    timer_mod(e->hold_timer,
              qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + HOLD_MS);
}

static void hold_poll(void *opaque)
{
    PollCall *call = opaque;
    BlockDriverState *bs = NULL;

    call->busy = false;
    if (!call->e->hold_timer) {
        return; /* it expired, or the epoch is being aborted */
    }
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    while ((bs = bdrv_next_all_states(bs))) {
        call->busy |= bdrv_drain_poll(bs, NULL, true);
    }
}

void hotsnap_quiesce(HotsnapEpoch *e)
{
    PollCall call = { .e = e };

    hotsnap_call_main(e->member, hold_begin, e);
    for (;;) {
        hotsnap_call_main(e->member, hold_poll, &call);
        if (!call.busy) {
            return;
        }
        g_usleep(POLL_US);
    }
}

void hotsnap_quiesce_end(HotsnapEpoch *e)
{
    if (e->hold_timer) {
        timer_free(e->hold_timer);
        e->hold_timer = NULL;
        bdrv_drain_all_end();
    }
}
