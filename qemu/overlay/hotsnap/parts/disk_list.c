/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "block/block_int.h"
#include "disk_list.h"
#include "hw/qdev-core.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "system/block-backend.h"

static HotsnapDisk *disk_of(HotsnapDisks *disks, BlockDriverState *bs)
{
    HotsnapDisk *d;

    QTAILQ_FOREACH(d, &disks->list, next) {
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
 * The user's name for the disk: the device's id (a virtio device has its
 * proxy's), the drive's id, or the node's name.
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

/* The overlay is cached as the data file is. */
static int overlay_flags(BlockDriverState *base)
{
    BlockDriverState *protocol = base->file ? base->file->bs : base;
    int cache = BDRV_O_NOCACHE | BDRV_O_NATIVE_AIO | BDRV_O_IO_URING;

    return (base->open_flags & ~(BDRV_O_SNAPSHOT | BDRV_O_COPY_ON_READ |
                                 BDRV_O_TEMPORARY)) |
           (protocol->open_flags & cache) | BDRV_O_NO_BACKING;
}

static bool check_kind(BlockBackend *blk, BlockDriverState *bs,
                       const char *device, Error **errp)
{
    if (passes_through(blk)) {
        error_setg(errp, "Disk '%s' passes the guest's commands to the "
                   "host's device: it cannot take an overlay; use scsi-hd",
                   device);
        return false;
    }
    if (has_more_files(bs)) {
        error_setg(errp, "Disk '%s' has its data in another file than its "
                   "own, which is not in the bundle; convert it with "
                   "'qemu-img convert'", device);
        return false;
    }
    return true;
}

/* Whether the run's options name the disk, or no disk of any member. */
static bool is_named(HotsnapDisks *disks, const char *device)
{
    const HotsnapSnapshotOptions *o = disks->run->options;
    HotsnapDiskNameList *name = o->disks;

    while (name && (strcmp(name->value->member, disks->run->member) ||
                    strcmp(name->value->device, device))) {
        name = name->next;
    }
    return !o->has_disks || name;
}

static bool is_wanted(HotsnapDisks *disks, BlockBackend *blk)
{
    g_autofree char *device = device_label(blk);

    return is_named(disks, device);
}

/* A name that fits no disk is a mistake, not a disk less. */
static bool check_names(HotsnapDisks *disks, Error **errp)
{
    HotsnapDiskNameList *name = disks->run->options->disks;
    HotsnapDisk *d;

    for (; name; name = name->next) {
        if (strcmp(name->value->member, disks->run->member)) {
            continue;
        }
        QTAILQ_FOREACH(d, &disks->list, next) {
            if (!strcmp(d->device, name->value->device)) {
                break;
            }
        }
        if (!d) {
            error_setg(errp, "There is no disk '%s' that the guest can write "
                       "to; query-block tells their names",
                       name->value->device);
            return false;
        }
    }
    return true;
}

static bool add_disk(HotsnapDisks *disks, BlockBackend *blk,
                     BlockDriverState *bs, Error **errp)
{
    HotsnapDisk *d = g_new0(HotsnapDisk, 1);
    bool blocked;

    /* In the list from the start: release() and free() find it there. */
    QTAILQ_INSERT_TAIL(&disks->list, d, next);
    d->device = device_label(blk);
    if (!check_kind(blk, bs, d->device, errp)) {
        return false;
    }
    d->size = bdrv_getlength(bs);
    if (d->size < 0) {
        error_setg_errno(errp, -d->size, "Cannot tell the size of disk '%s'",
                         d->device);
        return false;
    }
    bdrv_graph_rdlock_main_loop();
    blocked = bdrv_op_is_blocked(bs, BLOCK_OP_TYPE_EXTERNAL_SNAPSHOT, errp);
    d->flags = overlay_flags(bs);
    bdrv_graph_rdunlock_main_loop();
    if (blocked) {
        error_prepend(errp, "Disk '%s' cannot take an overlay: ", d->device);
        return false;
    }
    bdrv_ref(bs);
    d->base = bs;
    d->name = g_strdup(bs->drv ? bs->exact_filename : "");
    d->sectors = bs->total_sectors;
    d->format = g_strdup(bs->drv ? bs->drv->format_name : "");
    error_setg(&d->blocker, "Disk '%s' is in a cluster snapshot that is in "
               "progress; wait for it to end or cancel its job", d->device);
    bdrv_op_block_all(bs, d->blocker);
    return true;
}

bool hotsnap_disk_list_fill(HotsnapDisks *disks, Error **errp)
{
    BlockBackend *blk = NULL;

    GLOBAL_STATE_CODE();
    while ((blk = blk_all_next(blk))) {
        BlockDriverState *bs = written_node(blk);

        if (bs && !disk_of(disks, bs) && is_wanted(disks, blk) &&
            !add_disk(disks, blk, bs, errp)) {
            return false;
        }
    }
    return check_names(disks, errp);
}

static bool is_open_here(const struct stat *file)
{
    g_autoptr(GDir) fds = g_dir_open("/proc/self/fd", 0, NULL);
    const char *name;
    struct stat st;

    if (!fds) {
        return true; /* no /proc in a chroot: it cannot be known */
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
 * The absolute name of the file that is open under @name. An absolute name
 * stays as it was given: users compare it with the name that they gave; and
 * the target of a device's name like /dev/vg0/guest may be another device
 * after the next boot.
 */
static char *absolute_name(const char *name, struct stat *file)
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

static bool find_file(HotsnapDisk *d, bool has_overlay_directory,
                      Error **errp)
{
    struct stat st;

    if (*d->name) {
        d->file = absolute_name(d->name, &st);
    }
    if (!d->file && *d->name && !path_is_absolute(d->name) &&
        !path_has_protocol(d->name)) {
        error_setg(errp, "Disk '%s' is no longer found under its name '%s', "
                   "which is relative to a folder that QEMU has left "
                   "(-daemonize); use an absolute one", d->device, d->name);
        return false;
    }
    if (!d->file || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))) {
        error_setg(errp, "Disk '%s' is not a file: it cannot take an "
                   "overlay; use a qcow2 or raw image file, or make the "
                   "disk read-only", d->device);
        return false;
    }
    /* An overlay beside it would be in /dev, which is memory. */
    if (S_ISBLK(st.st_mode) && !has_overlay_directory) {
        error_setg(errp, "Disk '%s' is the host's device '%s', and no "
                   "overlay can lie beside a device; name a folder for it "
                   "with overlay-directory", d->device, d->file);
        return false;
    }
    return true;
}

bool hotsnap_disk_list_find_files(HotsnapDisks *disks, Error **errp)
{
    HotsnapDisk *d;

    QTAILQ_FOREACH(d, &disks->list, next) {
        if (!find_file(d, disks->run->options->overlay_directory, errp)) {
            return false;
        }
    }
    return true;
}

/*
 * Commands that would change a disk are blocked since PREPARE; but not all
 * commands ask (qom-set, blockdev-reopen, HMP's qemu-io), and a guest can
 * change some disks itself. So the disks that are attached now must be those
 * that were seen then.
 */
bool hotsnap_disk_list_holds(HotsnapDisks *disks, Error **errp)
{
    BlockBackend *blk = NULL;
    HotsnapDisk *d;

    QTAILQ_FOREACH(d, &disks->list, next) {
        d->attached = false;
    }
    while ((blk = blk_all_next(blk))) {
        BlockDriverState *bs = written_node(blk);

        d = bs ? disk_of(disks, bs) : NULL;
        if (d && d->sectors == bs->total_sectors &&
            !strcmp(d->name, bs->exact_filename)) {
            d->attached = true;
        } else if (bs && (d || is_wanted(disks, blk))) {
            g_autofree char *device = device_label(blk);

            error_setg(errp, "Disk '%s' was changed while the snapshot was "
                       "being prepared; take it again", device);
            return false;
        }
    }
    QTAILQ_FOREACH(d, &disks->list, next) {
        if (!d->attached) {
            error_setg(errp, "Disk '%s' was taken away while the snapshot "
                       "was being prepared; take it again", d->device);
            return false;
        }
    }
    return true;
}
