/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Redirect-on-write disks: each writable disk gets a qcow2 overlay, made and
 * opened before the pause and put on top in it. The file that was in use
 * until then is the snapshot's disk: it is flushed and made read-only after
 * the pause, before the snapshot is declared complete. A run that saves disks
 * only has a hold in place of the pause (pause.c).
 */
#include "qemu/osdep.h"
#include "block/block_int.h"
#include "disk_list.h"
#include "disk_undo.h"
#include "disks.h"
#include "overlay.h"
#include "../counters.h"
#include "../pause_clock.h"
#include "qapi/error.h"
#include "qemu/coroutine.h"
#include "qobject/qlist.h"
#include "../trace.h"

#include <hotsnap/snapshot.h>

#define SUMS_UNIT 65536

/*
 * file-posix reopens an image file read-only as soon as nobody writes to it,
 * which takes milliseconds (it probes the file's alignment by reading). The
 * switch to the overlay would make that happen in the pause. So a parent of
 * our own keeps the base writable until the disks are settled, by asking for
 * the one write permission that an overlay shares.
 */
static char *keeper_desc(BdrvChild *c)
{
    return g_strdup("cluster snapshot");
}

static bool keeper_change_aio_ctx(BdrvChild *c, AioContext *ctx,
                                  GHashTable *visited, Transaction *tran,
                                  Error **errp)
{
    return true; /* issues no requests, so any context will do */
}

static AioContext *keeper_get_aio_context(BdrvChild *c)
{
    return bdrv_get_aio_context(c->bs);
}

static const BdrvChildClass child_keeper = {
    .stay_at_node = true,
    .get_parent_desc = keeper_desc,
    .change_aio_ctx = keeper_change_aio_ctx,
    .get_parent_aio_context = keeper_get_aio_context,
};

static bool keeper_attach(HotsnapDisk *d, Error **errp)
{
    bdrv_ref(d->base); /* taken over by the child */
    bdrv_graph_wrlock();
    d->keeper = bdrv_root_attach_child(d->base, "hotsnap", &child_keeper, 0,
                                       BLK_PERM_WRITE_UNCHANGED, BLK_PERM_ALL,
                                       NULL, errp);
    bdrv_graph_wrunlock();
    return d->keeper;
}

static void keeper_detach(HotsnapDisk *d)
{
    if (d->keeper) {
        bdrv_graph_wrlock();
        bdrv_root_unref_child(d->keeper);
        bdrv_graph_wrunlock();
        d->keeper = NULL;
    }
}

static void disk_unblock(HotsnapDisk *d)
{
    if (d->blocker) {
        bdrv_op_unblock_all(d->base, d->blocker);
        if (d->overlay) {
            bdrv_op_unblock_all(d->overlay, d->blocker);
        }
        error_free(d->blocker);
        d->blocker = NULL;
    }
}

static void disk_free(HotsnapDisk *d)
{
    keeper_detach(d);
    disk_unblock(d);
    bdrv_unref(d->overlay);
    bdrv_unref(d->base);
    g_free(d->device);
    g_free(d->name);
    g_free(d->file);
    g_free(d->format);
    g_free(d->overlay_file);
    g_free(d);
}

static void disks_release(void *opaque)
{
    HotsnapDisks *disks = opaque;
    HotsnapDisk *d;

    while ((d = QTAILQ_FIRST(&disks->list))) {
        QTAILQ_REMOVE(&disks->list, d, next);
        disk_free(d);
    }
}

static void *disks_begin(HotsnapRun *r, Error **errp)
{
    HotsnapDisks *disks = g_new0(HotsnapDisks, 1);
    const char *folder = r->options->overlay_directory;

    disks->run = r;
    QTAILQ_INIT(&disks->list);
    if (folder && !g_path_is_absolute(folder)) {
        error_setg(errp, "Overlay directory '%s' is not an absolute path",
                   folder);
    } else if (hotsnap_disk_list_fill(disks, errp)) {
        return disks;
    }
    disks_release(disks);
    g_free(disks);
    return NULL;
}

typedef struct FlushCall {
    BlockDriverState *bs;
    int ret;
    QemuEvent done;
} FlushCall;

static void coroutine_fn flush_entry(void *opaque)
{
    FlushCall *call = opaque;

    WITH_GRAPH_RDLOCK_GUARD() {
        call->ret = bdrv_co_flush(call->bs);
    }
    qemu_event_set(&call->done);
}

static void flush_in_main(void *opaque)
{
    FlushCall *call = opaque;

    aio_co_enter(bdrv_get_aio_context(call->bs),
                 qemu_coroutine_create(flush_entry, call));
}

static bool disks_flush(HotsnapDisks *disks, Error **errp)
{
    HotsnapDisk *d;

    QTAILQ_FOREACH(d, &disks->list, next) {
        FlushCall call = { .bs = d->base };

        qemu_event_init(&call.done, false);
        hotsnap_queue_call(disks->run->main, flush_in_main, &call);
        qemu_event_wait(&call.done);
        qemu_event_destroy(&call.done);
        if (call.ret < 0) {
            error_setg_errno(errp, -call.ret, "Cannot flush disk '%s'",
                             d->device);
            return false;
        }
    }
    return true;
}

/* A name beside the disk, or in the given folder. */
static bool create_overlay(HotsnapRun *r, HotsnapDisk *d, Error **errp)
{
    g_autofree char *folder = r->options->overlay_directory
                              ? g_strdup(r->options->overlay_directory)
                              : g_path_get_dirname(d->file);
    g_autofree char *label = g_strdelimit(g_strdup(d->device), "/:\\ ", '-');
    g_autofree char *prefix = g_strdup_printf("%s-%s-%s", r->member, label,
                                              r->tag);
    HotsnapOverlay overlay = {
        .folder = folder,
        .prefix = prefix,
        .backing = d->file,
        .backing_format = d->format,
        .size = d->size,
    };

    d->overlay_file = hotsnap_overlay_create(&overlay, errp);
    if (!d->overlay_file) {
        error_prepend(errp, "Cannot create the overlay of disk '%s': ",
                      d->device);
    }
    return d->overlay_file;
}

typedef struct MainCall {
    HotsnapDisks *disks;
    Error *err;
} MainCall;

static bool open_overlay(HotsnapDisk *d, Error **errp)
{
    static unsigned serial;
    g_autofree char *node = g_strdup_printf("hotsnap-%u", serial++);
    QDict *options = qdict_new();

    qdict_put_str(options, "driver", "qcow2");
    qdict_put_str(options, "node-name", node);
    d->overlay = bdrv_open(d->overlay_file, NULL, options, d->flags, errp);
    if (!d->overlay) {
        return false;
    }
    bdrv_op_block_all(d->overlay, d->blocker);
    return bdrv_try_change_aio_context(d->overlay,
                                       bdrv_get_aio_context(d->base), NULL,
                                       errp) == 0 &&
           keeper_attach(d, errp);
}

/* Reads a header that was written a moment ago: it is in the page cache. */
static void open_in_main(void *opaque)
{
    MainCall *call = opaque;
    HotsnapDisk *d;

    QTAILQ_FOREACH(d, &call->disks->list, next) {
        if (!open_overlay(d, &call->err)) {
            return;
        }
    }
}

static bool disks_prepare(void *opaque, Error **errp)
{
    HotsnapDisks *disks = opaque;
    MainCall call = { .disks = disks };
    HotsnapDisk *d;

    if (!hotsnap_disk_list_find_files(disks, errp)) {
        return false;
    }
    QTAILQ_FOREACH(d, &disks->list, next) {
        if (!create_overlay(disks->run, d, errp)) {
            return false;
        }
    }
    hotsnap_queue_call(disks->run->main, open_in_main, &call);
    if (call.err) {
        error_propagate(errp, call.err);
        return false;
    }
    return disks_flush(disks, errp);
}

/* Again: a guest's own flush must find little to do in the pause. */
static bool disks_arm(void *opaque, Error **errp)
{
    return disks_flush(opaque, errp);
}

static void disks_uncut(void *opaque)
{
    hotsnap_disks_switch_back(opaque);
}

static bool disks_cut(void *opaque, Error **errp)
{
    ERRP_GUARD();
    HotsnapDisks *disks = opaque;
    HotsnapDisk *d;

    if (!hotsnap_disk_list_holds(disks, errp)) {
        return false;
    }
    QTAILQ_FOREACH(d, &disks->list, next) {
        trace_hotsnap_overlay(d->file, d->overlay_file);
        if (bdrv_append(d->overlay, d->base, errp) < 0) {
            error_prepend(errp, "Cannot put the overlay on disk '%s': ",
                          d->device);
            disks_uncut(disks);
            return false;
        }
        d->switched = true;
    }
    hotsnap_pause_step(&disks->run->pause, "disks");
    return true;
}

static void settle_in_main(void *opaque)
{
    MainCall *call = opaque;
    HotsnapDisk *d;

    QTAILQ_FOREACH(d, &call->disks->list, next) {
        keeper_detach(d);
        if (bdrv_reopen_set_read_only(d->base, true, &call->err) < 0) {
            error_prepend(&call->err, "Cannot make '%s' read-only: ",
                          d->file);
            return;
        }
    }
}

static bool sum_disks(HotsnapDisks *disks, Error **errp)
{
    HotsnapDisk *d;
    unsigned i = 0;

    QTAILQ_FOREACH(d, &disks->list, next) {
        g_autofree char *sums = g_strdup_printf("%s/disk-%u.sums",
                                                disks->run->folder, i++);
        char *error = NULL;

        if (!hs_sums_write(d->file, sums, SUMS_UNIT, &d->sums_xxh3,
                           &disks->run->cancelled, &error)) {
            error_setg(errp, "%s", error);
            hs_string_free(error);
            return false;
        }
    }
    return true;
}

static bool disks_settle(void *opaque, Error **errp)
{
    HotsnapDisks *disks = opaque;
    MainCall call = { .disks = disks };

    if (!disks_flush(disks, errp)) {
        return false;
    }
    hotsnap_queue_call(disks->run->main, settle_in_main, &call);
    if (call.err) {
        error_propagate(errp, call.err);
        return false;
    }
    return sum_disks(disks, errp);
}

static void disks_report(void *opaque, QDict *json)
{
    HotsnapDisks *disks = opaque;
    QList *list = qlist_new();
    HotsnapDisk *d;
    unsigned i = 0;

    QTAILQ_FOREACH(d, &disks->list, next) {
        QDict *disk = qdict_new();
        g_autofree char *sums = g_strdup_printf("%s/disk-%u.sums",
                                                disks->run->member, i++);

        qdict_put_str(disk, "device", d->device);
        qdict_put_str(disk, "node", bdrv_get_node_name(d->base));
        qdict_put_str(disk, "file", d->file);
        qdict_put_str(disk, "format", d->format);
        qdict_put_str(disk, "overlay", d->overlay_file);
        qdict_put_str(disk, "overlay_node", bdrv_get_node_name(d->overlay));
        qdict_put_str(disk, "sums", sums);
        hotsnap_report_xxh3(disk, "sums_xxh3", d->sums_xxh3);
        qlist_append(list, disk);
    }
    qdict_put(json, "disks", list);
}

static void disks_undo(void *opaque, const char *reason)
{
    HotsnapDisks *disks = opaque;
    HotsnapDisk *d;
    unsigned i = 0;

    QTAILQ_FOREACH(d, &disks->list, next) {
        g_autofree char *sums = g_strdup_printf("%s/disk-%u.sums",
                                                disks->run->folder, i++);

        unlink(sums);
        if (d->overlay_file && !d->switched) {
            unlink(d->overlay_file); /* it is still open, and unused */
        }
    }
}

static void disks_undo_main(void *opaque)
{
    HotsnapDisks *disks = opaque;
    HotsnapDisk *d;

    QTAILQ_FOREACH(d, &disks->list, next) {
        keeper_detach(d);
        disk_unblock(d);
    }
    hotsnap_disks_undo(disks);
}

const HotsnapPart hotsnap_disks_part = {
    .name = "disks",
    .contents = BIT(HOTSNAP_CONTENT_ALL) | BIT(HOTSNAP_CONTENT_DISKS),
    .begin = disks_begin,
    .prepare = disks_prepare,
    .arm = disks_arm,
    .cut = disks_cut,
    .uncut = disks_uncut,
    .settle = disks_settle,
    .report = disks_report,
    .undo = disks_undo,
    .undo_main = disks_undo_main,
    .release = disks_release,
    .free = g_free,
};
