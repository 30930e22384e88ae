/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A drained section of all disks that lasts over iterations of the main loop:
 * vCPUs run, the monitor answers, frames flow. A request of the guest waits in
 * its virtqueue or in its BlockBackend, where it does not count as being in
 * flight. (pause.c tells of the drain itself.)
 *
 * Four things end it, all in a thread that has the BQL and the main loop's
 * context, so one of them comes first, and the others find nothing to end:
 *
 *   the switch, an abort   hotsnap_hold_end()
 *   the timer              It belongs to the main loop's AioContext: code that
 *                          waits in aio_poll() for a held request, such as a
 *                          command of the monitor, is let go by it.
 *   a drain by QEMU        A guest that resets a device, or a VM that is being
 *                          stopped, waits with blk_drain() until its requests
 *                          have completed, and relies on that. Those that are
 *                          held would look as if they had. So the hold ends
 *                          first (blk_drain_hook), and the requests complete.
 *
 * The switch asks hotsnap_hold_lasts() and then puts the overlays on without
 * leaving the main loop, so none of the others comes in between. It also asks
 * for the time: after a stop of the process the timer may be late.
 */
#include "qemu/osdep.h"
#include "block/aio-wait.h"
#include "block/block.h"
#include "clock.h"
#include "hold.h"
#include "pause_clock.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "system/hotsnap-drain.h"
#include "system/runstate.h"
#include "trace.h"

static struct {
    bool on;
    bool waiting;          /* hotsnap_hold_begin() is on the stack */
    const char *broken;    /* why it has ended, if not by request */
    int64_t due_ns;
    QEMUTimer *timer;
    VMChangeStateEntry *state_change;
    const HotsnapHoldOps *ops;
    void *opaque;
} hold;

static const char too_long[] =
    "Disk requests were held as long as 'hold-timeout' allows, and not all "
    "members held theirs by then; nothing is held any more. Allow more, or "
    "see why the storage of a member is slow";

void hotsnap_hold_end(void)
{
    if (!hold.on) {
        return;
    }
    hold.on = false;
    blk_drain_hook = NULL;
    timer_free(hold.timer);
    qemu_del_vm_change_state_handler(hold.state_change);
    bdrv_drain_all_end();
}

static void end_for(const char *reason)
{
    if (!hold.on) {
        return;
    }
    trace_hotsnap_hold_ended(reason);
    hotsnap_hold_end();
    hold.broken = reason;
    if (!hold.waiting) { /* else hotsnap_hold_begin() tells */
        hold.ops->ended(hold.opaque, reason);
    }
}

static void timer_fires(void *opaque)
{
    end_for(too_long);
}

/* Somebody is about to wait until requests have completed. */
static void guest_drains(void)
{
    end_for("The guest reset a disk, or QEMU waited for its requests, while "
            "they were held; take the snapshot again");
}

static void vm_changes(void *opaque, bool running, RunState state)
{
    if (!running) {
        end_for("The VM was stopped while its disk requests were held; take "
                "the snapshot again");
    }
}

static bool in_flight(void)
{
    BlockDriverState *bs = NULL;
    bool result = false;

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    while ((bs = bdrv_next_all_states(bs))) {
        result |= bdrv_drain_poll(bs, NULL, true);
    }
    return result;
}

bool hotsnap_hold_begin(hs_pause *p, uint64_t longest_us,
                        const HotsnapHoldOps *ops, void *opaque,
                        Error **errp)
{
    assert(!hold.on);
    hotsnap_pause_begin(p);
    hold.on = hold.waiting = true;
    hold.broken = NULL;
    hold.ops = ops;
    hold.opaque = opaque;
    hold.due_ns = p->begin_ns + (int64_t)(longest_us * 1000);
    hold.timer = aio_timer_new(qemu_get_aio_context(), QEMU_CLOCK_REALTIME,
                               SCALE_US, timer_fires, NULL);
    timer_mod(hold.timer, qemu_clock_get_us(QEMU_CLOCK_REALTIME) +
                          longest_us);
    hold.state_change = qemu_add_vm_change_state_handler(vm_changes, NULL);
    blk_drain_hook = guest_drains;

    bdrv_drain_all_begin_nopoll();
    AIO_WAIT_WHILE_UNLOCKED(NULL, !hold.broken && in_flight());
    hold.waiting = false;
    hotsnap_pause_step(p, "drain");
    if (hold.broken) {
        error_setg(errp, "%s", hold.broken);
        return false;
    }
    return true;
}

bool hotsnap_hold_lasts(Error **errp)
{
    if (hold.on && hotsnap_now_ns() < hold.due_ns) {
        return true;
    }
    error_setg(errp, "%s", hold.broken ?: too_long);
    return false;
}
