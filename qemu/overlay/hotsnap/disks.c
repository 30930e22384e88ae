/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Redirect-on-write disks: each writable disk gets a qcow2 overlay, made and
 * opened before the pause and put on top in it. The file that was in use
 * until then is the snapshot's disk: it is flushed and made read-only after
 * the pause, before the snapshot is declared complete.
 */
#include "qemu/osdep.h"
#include "internal.h"
#include "block/block_int.h"
#include "block/blockjob.h"
#include "hw/qdev-core.h"
#include "qapi/error.h"
#include "qemu/coroutine.h"
#include "qemu/error-report.h"
#include "system/block-backend.h"
#include "trace.h"

#define FOR_EACH_DISK(e, d)                                         \
    for (HotsnapDisk *d = (HotsnapDisk *)(e)->disks->data;          \
         d < (HotsnapDisk *)(e)->disks->data + (e)->disks->len; d++)

static HotsnapDisk *disk_of(HotsnapEpoch *e, BlockDriverState *bs)
{
    FOR_EACH_DISK(e, d) {
        if (d->base == bs) {
            return d;
        }
    }
    return NULL;
}

/* The node that a device writes to, up to date; NULL: it writes to none. */
static BlockDriverState *written_node(BlockBackend *blk)
{
    BlockDriverState *bs = blk_bs(blk);

    if (!bs || !blk_get_attached_dev(blk) || !blk_is_writable(blk)) {
        return NULL;
    }
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    bs = bdrv_skip_implicit_filters(bs);
    bdrv_refresh_filename(bs);
    return bs;
}

/*
 * What the user calls the disk: the device's id (a virtio device's is its
 * proxy's), the drive's, or the node's name.
 */
static char *device_label(BlockBackend *blk)
{
    DeviceState *dev = blk_get_attached_dev(blk);
    Object *parent = OBJECT(dev)->parent;
    const char *label = dev->id;

    if (!label && object_dynamic_cast(parent, TYPE_DEVICE)) {
        label = DEVICE(parent)->id;
    }
    if (!label && *blk_name(blk)) {
        label = blk_name(blk);
    }
    return g_strdup(label ?: bdrv_get_node_name(blk_bs(blk)));
}

static bool is_open_here(const struct stat *file)
{
    g_autoptr(GDir) fds = g_dir_open("/proc/self/fd", 0, NULL);
    const char *name;
    struct stat st;

    if (!fds) {
        return true; /* no /proc in a chroot: nobody can tell */
    }
    while ((name = g_dir_read_name(fds))) {
        if (!fstat(atoi(name), &st) && st.st_dev == file->st_dev &&
            st.st_ino == file->st_ino) {
            return true;
        }
    }
    return false;
}

/*
 * The absolute name of the file that is open under @name. One that is
 * absolute stays as it was given: others compare it with what they gave; and
 * what a device's name like /dev/vg0/guest leads to is another device after
 * the next boot.
 */
static char *disk_file(const char *name, struct stat *file)
{
    g_autofree char *dir = g_path_get_dirname(name);
    g_autofree char *last = g_path_get_basename(name);
    char *real_dir, *path;

    if (stat(name, file) || !is_open_here(file)) {
        return NULL;
    }
    if (path_is_absolute(name)) {
        return g_strdup(name);
    }
    real_dir = realpath(dir, NULL);
    path = real_dir ? g_build_filename(real_dir, last, NULL) : NULL;
    free(real_dir);
    return path;
}

/* A bundle knows, and sums, one file for each disk: not qcow2's data-file. */
static bool has_more_files(BlockDriverState *bs)
{
    BdrvChild *child;

    GRAPH_RDLOCK_GUARD_MAINLOOP();
    QLIST_FOREACH(child, &bs->children, next) {
        if (child != bs->file && (child->role & BDRV_CHILD_DATA)) {
            return true;
        }
    }
    return false;
}

/* SCSI commands of the guest go to the host's device, past any overlay. */
static bool passes_through(BlockBackend *blk)
{
    Object *dev = OBJECT(blk_get_attached_dev(blk));

    return object_dynamic_cast(dev, "scsi-block") ||
           object_dynamic_cast(dev, "scsi-generic");
}

/* The file to put an overlay on. */
static char *overlay_base(HotsnapEpoch *e, BlockBackend *blk,
                          BlockDriverState *bs, const char *device,
                          Error **errp)
{
    const char *name = bs->exact_filename;
    g_autofree char *file = NULL;
    struct stat st;

    if (passes_through(blk)) {
        error_setg(errp, "Disk '%s' passes the guest's commands to the "
                   "host's device: it cannot take an overlay; use scsi-hd",
                   device);
        return NULL;
    }
    if (has_more_files(bs)) {
        error_setg(errp, "Disk '%s' has its data in another file than its "
                   "own, which is not in the bundle; convert it with "
                   "'qemu-img convert'", device);
        return NULL;
    }
    if (bs->drv && *name) {
        file = disk_file(name, &st);
    }
    if (!file && *name && !path_is_absolute(name) &&
        !path_has_protocol(name)) {
        error_setg(errp, "Disk '%s' is no longer found under its name '%s', "
                   "which is relative to a folder that QEMU has left "
                   "(-daemonize); use an absolute one", device, name);
        return NULL;
    }
    if (!file || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))) {
        error_setg(errp, "Disk '%s' is not a file: it cannot take an "
                   "overlay; use a qcow2 or raw image file, or make the "
                   "disk read-only", device);
        return NULL;
    }
    /* Beside it is /dev, which is memory. */
    if (S_ISBLK(st.st_mode) && !e->overlay_directory) {
        error_setg(errp, "Disk '%s' is the host's device '%s', and no "
                   "overlay can lie beside a device; name a folder for it "
                   "with overlay-directory", device, file);
        return NULL;
    }
    return g_steal_pointer(&file);
}

/* A name beside the disk, or in the given folder, that is not taken. */
static char *overlay_path(HotsnapEpoch *e, const char *base,
                          const char *device)
{
    g_autofree char *dir = e->overlay_directory
                           ? g_strdup(e->overlay_directory)
                           : g_path_get_dirname(base);
    g_autofree char *label = g_strdelimit(g_strdup(device), "/:\\ ", '-');

    for (int i = 0;; i++) {
        g_autofree char *suffix = i ? g_strdup_printf("-%d", i) : g_strdup("");
        g_autofree char *name = g_strdup_printf("%s-%s-%s%s.qcow2",
                                                e->member->name, label,
                                                e->tag, suffix);
        char *path = g_build_filename(dir, name, NULL);

        if (access(path, F_OK)) {
            return path;
        }
        g_free(path);
    }
}

/* How the data file is cached tells how the overlay has to be. */
static int overlay_flags(BlockDriverState *base)
{
    BlockDriverState *protocol = base->file ? base->file->bs : base;
    int cache = BDRV_O_NOCACHE | BDRV_O_NATIVE_AIO | BDRV_O_IO_URING;

    return (base->open_flags & ~(BDRV_O_SNAPSHOT | BDRV_O_COPY_ON_READ |
                                 BDRV_O_TEMPORARY)) |
           (protocol->open_flags & cache) | BDRV_O_NO_BACKING;
}

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

static bool disk_prepare(HotsnapEpoch *e, HotsnapDisk *d, Error **errp)
{
    ERRP_GUARD();
    static unsigned serial;
    g_autofree char *node = g_strdup_printf("hotsnap-%u", serial++);
    QDict *options;
    int64_t size = bdrv_getlength(d->base);
    bool blocked;
    int flags;

    if (size < 0) {
        error_setg_errno(errp, -size, "Cannot tell the size of disk '%s'",
                         d->device);
        return false;
    }
    d->overlay_file = overlay_path(e, d->file, d->device);
    bdrv_graph_rdlock_main_loop();
    blocked = bdrv_op_is_blocked(d->base, BLOCK_OP_TYPE_EXTERNAL_SNAPSHOT,
                                 errp);
    flags = overlay_flags(d->base);
    bdrv_graph_rdunlock_main_loop();
    if (blocked) {
        error_prepend(errp, "Disk '%s' cannot take an overlay: ", d->device);
        return false;
    }
    error_setg(&d->blocker, "Disk '%s' is in a cluster snapshot that is in "
               "progress; wait for it to end or cancel its job", d->device);
    bdrv_op_block_all(d->base, d->blocker);
    d->created = true;
    bdrv_img_create(d->overlay_file, "qcow2", d->file, d->format, NULL, size,
                    flags, true, errp);
    if (*errp) {
        error_prepend(errp, "Cannot create the overlay of disk '%s': ",
                      d->device);
        return false;
    }
    options = qdict_new();
    qdict_put_str(options, "driver", "qcow2");
    qdict_put_str(options, "node-name", node);
    d->overlay = bdrv_open(d->overlay_file, NULL, options, flags, errp);
    if (!d->overlay) {
        return false;
    }
    bdrv_op_block_all(d->overlay, d->blocker);
    return bdrv_try_change_aio_context(d->overlay,
                                       bdrv_get_aio_context(d->base), NULL,
                                       errp) == 0 &&
           keeper_attach(d, errp);
}

bool hotsnap_disks_prepare(HotsnapEpoch *e, Error **errp)
{
    BlockBackend *blk = NULL;

    GLOBAL_STATE_CODE();
    while ((blk = blk_all_next(blk))) {
        BlockDriverState *bs = written_node(blk);
        HotsnapDisk d = {};

        if (!bs || disk_of(e, bs)) {
            continue;
        }
        d.device = device_label(blk);
        d.file = overlay_base(e, blk, bs, d.device, errp);
        if (!d.file) {
            g_free(d.device);
            return false;
        }
        bdrv_ref(bs);
        d.base = bs;
        d.name = g_strdup(bs->exact_filename);
        d.sectors = bs->total_sectors;
        d.format = g_strdup(bs->drv->format_name);
        g_array_append_val(e->disks, d);
        if (!disk_prepare(e, &g_array_index(e->disks, HotsnapDisk,
                                            e->disks->len - 1), errp)) {
            return false;
        }
    }
    return true;
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

bool hotsnap_disks_flush(HotsnapEpoch *e, Error **errp)
{
    FOR_EACH_DISK(e, d) {
        FlushCall call = { .bs = d->base };

        qemu_event_init(&call.done, false);
        hotsnap_call_main(e->member, flush_in_main, &call);
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

/* Takes the overlay off again; the disks are drained. */
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

/*
 * Commands that would change a disk are blocked since PREPARE; but not all
 * commands ask (qom-set, blockdev-reopen, HMP's qemu-io), and a guest can
 * change some itself. So what is attached now must be what was seen then.
 */
static bool disks_are_the_same(HotsnapEpoch *e, Error **errp)
{
    BlockBackend *blk = NULL;

    FOR_EACH_DISK(e, d) {
        d->attached = false;
    }
    while ((blk = blk_all_next(blk))) {
        BlockDriverState *bs = written_node(blk);
        HotsnapDisk *d = bs ? disk_of(e, bs) : NULL;

        if (d && d->sectors == bs->total_sectors &&
            !strcmp(d->name, bs->exact_filename)) {
            d->attached = true;
        } else if (bs) {
            g_autofree char *device = device_label(blk);

            error_setg(errp, "Disk '%s' was changed while the snapshot was "
                       "being prepared; take it again", device);
            return false;
        }
    }
    FOR_EACH_DISK(e, d) {
        if (!d->attached) {
            error_setg(errp, "Disk '%s' was taken away while the snapshot "
                       "was being prepared; take it again", d->device);
            return false;
        }
    }
    return true;
}

bool hotsnap_disks_switch(HotsnapEpoch *e, Error **errp)
{
    ERRP_GUARD();

    if (!disks_are_the_same(e, errp)) {
        return false;
    }
    FOR_EACH_DISK(e, d) {
        trace_hotsnap_overlay(d->file, d->overlay_file);
        if (bdrv_append(d->overlay, d->base, errp) < 0) {
            error_prepend(errp, "Cannot put the overlay on disk '%s': ",
                          d->device);
            FOR_EACH_DISK(e, undo) {
                if (undo->switched) {
                    disk_switch_back(undo);
                }
            }
            return false;
        }
        d->switched = true;
    }
    return true;
}

typedef struct SettleCall {
    HotsnapEpoch *e;
    Error *err;
} SettleCall;

static void settle_in_main(void *opaque)
{
    SettleCall *call = opaque;

    FOR_EACH_DISK(call->e, d) {
        keeper_detach(d);
        if (bdrv_reopen_set_read_only(d->base, true, &call->err) < 0) {
            error_prepend(&call->err, "Cannot make '%s' read-only: ",
                          d->file);
            return;
        }
    }
}

bool hotsnap_disks_settle(HotsnapEpoch *e, Error **errp)
{
    SettleCall call = { .e = e };

    if (!hotsnap_disks_flush(e, errp)) {
        return false;
    }
    hotsnap_call_main(e->member, settle_in_main, &call);
    if (call.err) {
        error_propagate(errp, call.err);
        return false;
    }
    return true;
}

/*
 * An epoch aborted after the cut: what the guest wrote since then is in the
 * overlay. It is committed back while the VM runs, then the overlay goes.
 */
static unsigned undos;

bool hotsnap_disks_undoing(void)
{
    return undos;
}

/*
 * The base has everything and was flushed (the job did so last), and the
 * guest writes to it again. From now on the overlay is out of date: should
 * the host lose power, it must not be there again.
 */
static void remove_overlay(const char *overlay)
{
    g_autofree char *dir = g_path_get_dirname(overlay);
    int fd = qemu_open_old(dir, O_RDONLY | O_DIRECTORY);

    if (unlink(overlay) || fd < 0 || fsync(fd)) {
        warn_report("Overlay '%s' of an aborted snapshot is out of date, but "
                    "cannot be removed for good: %s; remove it", overlay,
                    strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void undo_done(void *opaque, int ret)
{
    g_autofree char *overlay = opaque;

    undos--;
    if (ret < 0) {
        warn_report("Overlay '%s' of an aborted snapshot stays in use: "
                    "committing it failed: %s; use block-commit",
                    overlay, strerror(-ret));
    } else {
        remove_overlay(overlay);
    }
}

void hotsnap_disks_undo(HotsnapEpoch *e)
{
    FOR_EACH_DISK(e, d) {
        Error *err = NULL;
        char *overlay;

        keeper_detach(d);
        disk_unblock(d);
        if (!d->switched) {
            if (d->created) {
                g_clear_pointer(&d->overlay, bdrv_unref);
                unlink(d->overlay_file);
            }
            continue;
        }
        overlay = g_strdup(d->overlay_file);
        undos++;
        if (!commit_active_start(NULL, d->overlay, d->base, JOB_INTERNAL, 0,
                                 BLOCKDEV_ON_ERROR_REPORT, NULL, undo_done,
                                 overlay, true, &err)) {
            warn_report_err(err);
            g_free(overlay);
            undos--;
        }
    }
}

void hotsnap_disks_free(HotsnapEpoch *e)
{
    FOR_EACH_DISK(e, d) {
        keeper_detach(d);
        disk_unblock(d);
        bdrv_unref(d->overlay);
        bdrv_unref(d->base);
        g_free(d->device);
        g_free(d->name);
        g_free(d->file);
        g_free(d->format);
        g_free(d->overlay_file);
    }
    g_array_unref(e->disks);
}
