/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The disks of a run, for the files about them.
 */
#ifndef HOTSNAP_PARTS_DISK_H
#define HOTSNAP_PARTS_DISK_H

#include "block/block.h"
#include "../part.h"
#include "qemu/queue.h"

/* One writable disk of the VM, in one run. */
typedef struct HotsnapDisk {
    char *device;           /* the user's name for it */
    char *name;             /* of the base's file, as it was opened */
    char *file;             /* the same, absolute */
    char *format;
    int64_t size;
    int64_t sectors;        /* as they were seen when preparing */
    bool attached;
    int flags;              /* that the overlay is opened with */
    char *overlay_file;     /* made by us; NULL: not yet */
    BlockDriverState *base; /* referenced; becomes read-only */
    BlockDriverState *overlay; /* referenced */
    Error *blocker;         /* of commands that would change it */
    BdrvChild *keeper;      /* keeps the base's file open for writing */
    bool switched;          /* the guest writes to the overlay */
    uint64_t sums_xxh3;
    QTAILQ_ENTRY(HotsnapDisk) next;
} HotsnapDisk;

typedef struct HotsnapDisks {
    HotsnapRun *run;
    QTAILQ_HEAD(, HotsnapDisk) list;
} HotsnapDisks;

#endif
