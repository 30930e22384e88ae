/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Files of disk overlays: empty qcow2 images over a backing file.
 */
#ifndef HOTSNAP_PARTS_OVERLAY_H
#define HOTSNAP_PARTS_OVERLAY_H

/* Ends the name of a file that is being made; nothing reads such a file. */
#define HOTSNAP_UNFINISHED ".new"

typedef struct HotsnapOverlay {
    const char *folder;
    const char *prefix;       /* of the file's name */
    const char *backing;
    const char *backing_format;
    uint64_t size;            /* of the disk, a multiple of 512 */
} HotsnapOverlay;

/*
 * Makes a durable file under an unused name in @o->folder, and returns its
 * path; NULL after an error. The file has its name once it is whole. Each
 * prefix is for one caller at a time. To be called without the BQL, as it
 * waits for storage. The block layer's own bdrv_img_create() needs the BQL
 * all the while, and no vCPU runs then if the storage does not answer.
 */
char *hotsnap_overlay_create(const HotsnapOverlay *o, Error **errp);

/* Removes the file of an overlay that must not be found again. */
void hotsnap_overlay_remove(const char *path);

#endif
