/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The main loop has the BQL all the while, which also serializes the pause
 * with the packet mediator. Order matters:
 *
 *   stop       vCPUs stand still, devices know (queued packets are flushed).
 *   drain      Disk requests that are in flight complete; no new ones start.
 *              From here on nothing writes to guest memory: vCPUs stopped,
 *              block layer quiescent (iothreads included), network and timers
 *              behind the BQL. Requests must complete, not wait: one that a
 *              device has taken from its queue is in no device's saved state.
 *   the parts  Their instants are one, as nothing runs in between: disks
 *              (writes go to the overlays), devices and memory, color (frames
 *              turn red).
 *   undrain, resume
 *
 * No step waits for storage to sync: flushes are done before and after.
 *
 * With mode stop-and-copy the pause goes on after `undrain`: the VM stands
 * until its memory is copied, or the run is given up. The main loop does other
 * work meanwhile. Memory is protected as in any other snapshot, so whoever
 * writes to it nevertheless, as a monitor's `cont` lets a guest, does no harm.
 *
 *   copy       Ends when the part says memory_done().
 *   resume
 *
 * The hold, of a run that saves no memory, has no `stop` and `resume`: vCPUs
 * run on. A vCPU that needs the BQL waits for it, as for any other work of the
 * main loop.
 *
 *   drain      As above; new requests of the guest wait, in a virtqueue or in
 *              the block layer. They are in no saved state, but none is needed:
 *              to the snapshot they were never issued. All disks are drained,
 *              also when only some are saved: to put an overlay on one, the
 *              block layer waits for the requests of all.
 *   the parts  Disks, color. Their instants are one to everything that could
 *              tell them apart: a request is held until `undrain`, and a frame
 *              passes the mediator under the BQL.
 *   undrain
 *
 * In a barrier (hold.c) the drain comes first, and the rest when all members
 * have drained.
 *
 * So a write that is complete before the hold is in the snapshot, and the news
 * of any later one leaves in a red frame. docs/internals/groups.md has the
 * argument for the cluster.
 */
#include "qemu/osdep.h"
#include "block/block.h"
#include "guard.h"
#include "hold.h"
#include "migration/global_state.h"
#include "pause.h"
#include "pause_clock.h"
#include "priority.h"
#include "qapi/error.h"
#include "system/runstate.h"
#include "trace.h"

static bool cut_parts(HotsnapRun *r, const HotsnapPart *const *parts,
                      Error **errp)
{
    for (int i = 0; i < HOTSNAP_PARTS; i++) {
        if (!r->part[i] || !parts[i]->cut ||
            parts[i]->cut(r->part[i], errp)) {
            continue;
        }
        while (--i >= 0) {
            if (r->part[i] && parts[i]->uncut) {
                parts[i]->uncut(r->part[i]);
            }
        }
        return false;
    }
    return true;
}

static bool cut_drained(HotsnapRun *r, const HotsnapPart *const *parts,
                        Error **errp)
{
    bool ok;

    bdrv_drain_all_begin();
    hotsnap_pause_step(&r->pause, "drain");

    ok = cut_parts(r, parts, errp);

    bdrv_drain_all_end();
    hotsnap_pause_step(&r->pause, "undrain");
    return ok;
}

static void trace_steps(const hs_pause *pause)
{
    for (unsigned i = 0; i < pause->count; i++) {
        trace_hotsnap_pause_step(pause->step[i].name, pause->step[i].us);
    }
}

bool hotsnap_hold_and_cut(HotsnapRun *r, const HotsnapPart *const *parts,
                          Error **errp)
{
    bool ok;

    hotsnap_pause_begin(&r->pause);
    ok = cut_drained(r, parts, errp);
    trace_steps(&r->pause);
    return ok;
}

bool hotsnap_cut_in_hold(HotsnapRun *r, const HotsnapPart *const *parts,
                         Error **errp)
{
    bool ok;

    hotsnap_pause_step(&r->pause, "wait");
    ok = hotsnap_hold_lasts(errp) && cut_parts(r, parts, errp);
    hotsnap_hold_end();
    hotsnap_pause_step(&r->pause, "undrain");
    trace_steps(&r->pause);
    return ok;
}

bool hotsnap_pause_and_cut(HotsnapRun *r, const HotsnapPart *const *parts,
                           Error **errp)
{
    bool was_live = runstate_is_live(runstate_get());
    hs_pause *pause = &r->pause;
    bool ok;

    hotsnap_pause_begin(pause);
    global_state_store();
    hotsnap_priority_cut_is_due(r->priority); /* until they run again */
    vm_pause_unflushed(RUN_STATE_SAVE_VM);
    hotsnap_pause_step(pause, "stop");

    ok = cut_drained(r, parts, errp);

    r->stands = ok && was_live &&
                hotsnap_run_mode(r) == HOTSNAP_MODE_STOP_AND_COPY;
    if (was_live && !r->stands) {
        vm_start();
    }
    if (!r->stands) {
        hotsnap_pause_step(pause, "resume");
    }
    trace_steps(pause);
    return ok;
}

/*
 * Not when QEMU ends, which would have stopped a VM that runs; and a user may
 * have let it run, or reset it, meanwhile.
 */
void hotsnap_pause_end(HotsnapRun *r)
{
    if (!r->stands) {
        return;
    }
    r->stands = false;
    hotsnap_pause_step(&r->pause, "copy");
    if (hotsnap_guard_is_open(NULL) && !runstate_needs_reset() &&
        !runstate_is_live(runstate_get())) {
        vm_start();
    }
    hotsnap_pause_step(&r->pause, "resume");
}
