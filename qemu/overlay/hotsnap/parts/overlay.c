/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The layout is QEMU's docs/interop/qcow2.rst, version 3, in its smallest
 * form: header, refcount table, one refcount block, an empty L1 table. All
 * of QEMU's defaults: clusters of 64 KiB, refcounts of 16 bits.
 */
#include "qemu/osdep.h"
#include "../folder.h"
#include "overlay.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/units.h"

#define CLUSTER_BITS 16
#define CLUSTER (1 << CLUSTER_BITS)
#define REFCOUNT_ORDER 4            /* 1 << 4 bits each */
#define L1_ENTRY_COVERS (512 * MiB) /* a cluster of 8-byte entries, each 64K */
#define EXTENSION_BACKING_FORMAT 0xe2792aca
#define HEADER_LENGTH 104
#define FIRST_L1_CLUSTER 3

static void put32(uint8_t *header, size_t at, uint32_t value)
{
    stl_be_p(header + at, value);
}

static void put64(uint8_t *header, size_t at, uint64_t value)
{
    stq_be_p(header + at, value);
}

/* The first three clusters; NULL if the backing file's name is too long. */
static uint8_t *image_head(const HotsnapOverlay *o, uint32_t l1_entries,
                           uint32_t l1_clusters)
{
    size_t format_size = strlen(o->backing_format);
    size_t name_size = strlen(o->backing);
    size_t name_at = HEADER_LENGTH + 8 + ROUND_UP(format_size, 8) + 8;
    uint8_t *head;

    if (name_size > 1023) {
        return NULL;
    }
    head = g_malloc0(FIRST_L1_CLUSTER * CLUSTER);
    put32(head, 0, 0x514649fb); /* "QFI\xfb" */
    put32(head, 4, 3);
    put64(head, 8, name_at);
    put32(head, 16, name_size);
    put32(head, 20, CLUSTER_BITS);
    put64(head, 24, o->size);
    put32(head, 36, l1_entries);
    put64(head, 40, FIRST_L1_CLUSTER * CLUSTER);
    put64(head, 48, CLUSTER);   /* refcount table */
    put32(head, 56, 1);         /* its clusters */
    put32(head, 96, REFCOUNT_ORDER);
    put32(head, 100, HEADER_LENGTH);
    put32(head, HEADER_LENGTH, EXTENSION_BACKING_FORMAT);
    put32(head, HEADER_LENGTH + 4, format_size);
    memcpy(head + HEADER_LENGTH + 8, o->backing_format, format_size);
    /* The end of the extensions is eight zeros. */
    memcpy(head + name_at, o->backing, name_size);

    put64(head, CLUSTER, 2 * CLUSTER); /* the one refcount block */
    for (uint32_t i = 0; i < FIRST_L1_CLUSTER + l1_clusters; i++) {
        stw_be_p(head + 2 * CLUSTER + 2 * i, 1);
    }
    return head;
}

static bool write_image(int fd, const HotsnapOverlay *o)
{
    uint32_t l1_entries = DIV_ROUND_UP(o->size, L1_ENTRY_COVERS);
    uint32_t l1_clusters = DIV_ROUND_UP(l1_entries * 8ULL, CLUSTER);
    g_autofree uint8_t *head = NULL;
    size_t head_size = FIRST_L1_CLUSTER * CLUSTER;

    if (FIRST_L1_CLUSTER + l1_clusters > CLUSTER / 2) {
        errno = EFBIG; /* than one refcount block can count: 1 EiB */
        return false;
    }
    head = image_head(o, l1_entries, l1_clusters);
    if (!head) {
        errno = ENAMETOOLONG;
        return false;
    }
    return qemu_write_full(fd, head, head_size) == head_size &&
           !ftruncate(fd, head_size + (off_t)l1_clusters * CLUSTER) &&
           !fsync(fd);
}

/* The first name that no file has; no other process makes this one. */
static char *unused_path(const HotsnapOverlay *o)
{
    for (int i = 0;; i++) {
        g_autofree char *suffix = i ? g_strdup_printf("-%d", i) : g_strdup("");
        g_autofree char *name = g_strdup_printf("%s%s.qcow2", o->prefix,
                                                suffix);
        g_autofree char *path = g_build_filename(o->folder, name, NULL);
        struct stat st;

        if (lstat(path, &st)) {
            return g_steal_pointer(&path);
        }
    }
}

char *hotsnap_overlay_create(const HotsnapOverlay *o, Error **errp)
{
    g_autofree char *path = unused_path(o);
    /* A QEMU that is killed meanwhile leaves no layer that is none. */
    g_autofree char *unfinished = g_strconcat(path, HOTSNAP_UNFINISHED, NULL);
    int fd = qemu_open_old(unfinished, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    bool ok = fd >= 0 && write_image(fd, o) && !rename(unfinished, path);

    if (!ok) {
        error_setg_errno(errp, errno, "Cannot create '%s'", path);
    }
    if (fd >= 0) {
        close(fd);
    }
    if (!ok) {
        unlink(unfinished);
    } else if (!hotsnap_folder_sync(o->folder, errp)) {
        unlink(path);
        ok = false;
    }
    return ok ? g_steal_pointer(&path) : NULL;
}

void hotsnap_overlay_remove(const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);
    Error *err = NULL;

    if (unlink(path)) {
        error_setg_errno(&err, errno, "Cannot remove it");
    } else {
        hotsnap_folder_sync(folder, &err);
    }
    if (err) {
        warn_report("Overlay '%s' of an aborted snapshot is out of date, but "
                    "cannot be removed for good: %s; remove it", path,
                    error_get_pretty(err));
        error_free(err);
    }
}
