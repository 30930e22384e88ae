/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "block/block_int.h"
#include "block/blockjob.h"
#include "block/thread-pool.h"
#include "disk_undo.h"
#include "overlay.h"
#include "qapi/error.h"
#include "qemu/error-report.h"

static unsigned undos;

static void disk_switch_back(HotsnapDisk *d)
{
    AioContext *ctx = bdrv_get_aio_context(d->base);

    bdrv_set_backing_hd(d->overlay, NULL, &error_abort);
    if (bdrv_get_aio_context(d->base) != ctx) {
        bdrv_try_change_aio_context(d->base, ctx, NULL, &error_abort);
    }
    bdrv_drained_begin(d->overlay);
    bdrv_graph_wrlock();
    bdrv_replace_node(d->overlay, d->base, &error_abort);
    bdrv_graph_wrunlock();
    bdrv_drained_end(d->overlay);
    d->switched = false;
}

void hotsnap_disks_switch_back(HotsnapDisks *disks)
{
    HotsnapDisk *d;

    QTAILQ_FOREACH(d, &disks->list, next) {
        if (d->switched) {
            disk_switch_back(d);
        }
    }
}

static int remove_file(void *opaque)
{
    hotsnap_overlay_remove(opaque);
    return 0;
}

static void file_removed(void *opaque, int ret)
{
    g_free(opaque);
    undos--;
}

/*
 * The base has everything and was flushed (the job did so last), and the
 * guest writes to it again. From now on the overlay is out of date: should
 * the host lose power, it must not be there again.
 */
static void undo_done(void *opaque, int ret)
{
    char *overlay = opaque;

    if (ret < 0) {
        warn_report("Overlay '%s' of an aborted snapshot stays in use: "
                    "committing it failed: %s; use block-commit",
                    overlay, strerror(-ret));
        file_removed(overlay, 0);
        return;
    }
    /* Not here: the storage may stall, which must not stop the VM. */
    thread_pool_submit_aio(remove_file, overlay, file_removed, overlay);
}

static void commit_overlay(HotsnapDisk *d)
{
    char *overlay = g_strdup(d->overlay_file);
    Error *err = NULL;

    undos++;
    if (!commit_active_start(NULL, d->overlay, d->base, JOB_INTERNAL, 0,
                             BLOCKDEV_ON_ERROR_REPORT, NULL, undo_done,
                             overlay, true, &err)) {
        warn_report_err(err);
        file_removed(overlay, 0);
    }
}

void hotsnap_disks_undo(HotsnapDisks *disks)
{
    HotsnapDisk *d;

    QTAILQ_FOREACH(d, &disks->list, next) {
        if (d->switched) {
            commit_overlay(d);
        }
    }
}

bool hotsnap_disks_undoing(void)
{
    return undos;
}
