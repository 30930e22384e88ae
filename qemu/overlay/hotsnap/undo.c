/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An aborted epoch is undone, also when the bundle's storage stands still.
 *
 * Storage may stall for minutes. Who then writes to a page that is not saved
 * waits as soon as staging is full: vCPUs, and the main loop in the middle of
 * a device's work, with the BQL held. No ABORT and no QMP command is heard in
 * the main loop then. What lets all of them go on is hs_snapshot_abort(),
 * which needs nothing of QEMU's. So an abort has three parts:
 *
 *   stop   hotsnap_stop_memory(), in the iothread, when the coordinator says
 *          ABORT: starts a thread, the stopper, for hs_snapshot_abort().
 *          Not called by the iothread itself, as it takes as long as
 *          unprotecting memory does, and then removes files.
 *   abort  hotsnap_epoch_abort(), in the main loop's turn: frames flow, and
 *          the task that may run is told to end.
 *   undo   when no task runs any more: one that frees the snapshot (which
 *          waits for writes that are under way) and removes the files. Last,
 *          in the main loop: disks, and the epoch itself.
 *
 * Locks. The main loop alone writes m->epoch and e->snapshot, with stop_lock
 * held; it reads them without. The iothread reads them with stop_lock held.
 * Who holds it takes no other lock, touches no guest memory, calls no
 * library, and waits for nothing but the start of a thread. So the iothread
 * never waits for the main loop, and both get on whatever the BQL's owner is
 * doing. The stopper holds no lock of QEMU's, nor does any thread that it
 * waits for (hotsnap/snapshot.h).
 *
 * Lifetime. The stopper uses the epoch and its snapshot. Both are freed by
 * who has joined it: the undo task, or after a COMMIT the thread that frees.
 * Then no stopper can be started any more: m->epoch has another value, or
 * the coordinator waits for ABORTED and says no second ABORT.
 *
 * An ABORT may meet the epoch of the run before, whose COMMIT still waits in
 * the main loop's queue. That snapshot has finished; hs_snapshot_abort() does
 * nothing to it.
 */
#include "qemu/osdep.h"
#include "internal.h"
#include "qemu/lockable.h"

static void *stop_memory(void *opaque)
{
    HotsnapEpoch *e = opaque;

    hs_snapshot_abort(e->snapshot_to_stop, e->stop_reason);
    return NULL;
}

void hotsnap_stop_memory(HotsnapMember *m, const char *reason)
{
    QEMU_LOCK_GUARD(&m->stop_lock);
    HotsnapEpoch *e = m->epoch;

    if (!e) {
        return;
    }
    /* Before the task can see what comes of it. */
    qatomic_set(&e->cancelled, true);
    if (e->snapshot && !e->stopping) {
        e->stopping = true;
        e->snapshot_to_stop = e->snapshot;
        e->stop_reason = g_strdup(reason);
        qemu_thread_create(&e->stopper, "hotsnap/stop", stop_memory, e,
                           QEMU_THREAD_JOINABLE);
    }
}

void hotsnap_join_stopper(HotsnapEpoch *e)
{
    if (e->stopping) {
        qemu_thread_join(&e->stopper);
        e->stopping = false;
    }
}

void hotsnap_set_snapshot(HotsnapEpoch *e, hs_snapshot *s)
{
    WITH_QEMU_LOCK_GUARD(&e->member->stop_lock) {
        e->snapshot = s;
    }
}

static void remove_files(HotsnapEpoch *e)
{
    g_autofree char *partial = g_path_get_dirname(e->folder);
    /* An unfinished image removes itself; a finished one must be removed. */
    static const char *const files[] = {
        "state", "state.sums", "state.dump", "channel.pcap", "channel.vnet",
        NULL
    };

    for (int i = 0; files[i]; i++) {
        g_autofree char *path = g_build_filename(e->folder, files[i], NULL);

        unlink(path);
    }
    for (int i = 0; i < e->disks->len; i++) {
        g_autofree char *path =
            g_strdup_printf("%s/disk-%d.sums", e->folder, i);

        unlink(path);
    }
    rmdir(e->folder);
    rmdir(partial); /* by whoever is the last; a late peer too */
}

static void *undo_task(void *opaque)
{
    HotsnapEpoch *e = opaque;

    hotsnap_join_stopper(e);
    if (e->doomed) {
        /*
         * First, so that nobody waits for storage in it any more. When it
         * has returned the library does not touch guest memory: who takes
         * some away meanwhile waits for the lock (watch.c), and finds
         * nothing to do then.
         */
        WITH_QEMU_LOCK_GUARD(&e->made_lock) {
            hs_snapshot_abort(e->doomed, e->abort_reason);
            e->made = NULL;
        }
        hotsnap_dma_disarm();
        hs_snapshot_free(e->doomed);
    }
    remove_files(e);
    e->undone = true;
    hotsnap_epoch_task_done(e);
    return NULL;
}

/* Main loop, when no task runs. */
void hotsnap_undo_begin(HotsnapEpoch *e)
{
    /* Others in the main loop must not ask it for its state while it goes. */
    e->doomed = e->snapshot;
    hotsnap_set_snapshot(e, NULL);
    hotsnap_epoch_run(e, "hotsnap/undo", undo_task);
}
