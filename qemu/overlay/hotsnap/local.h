/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Carries out, in the main loop, the steps of the local life of a run
 * (hotsnap/member.h). Functions are for the main loop unless a comment names
 * another thread.
 */
#ifndef HOTSNAP_LOCAL_H
#define HOTSNAP_LOCAL_H

#include "parts/network.h"
#include "qapi/qapi-types-hotsnap.h"
#include "queue.h"

#include <hotsnap/member.h>

typedef struct HotsnapLocal HotsnapLocal;

typedef struct HotsnapLocalOps {
    /* Takes @event, for the coordinator. */
    void (*event)(void *opaque, hs_event *event);
    int (*iothread_tid)(void *opaque);
} HotsnapLocalOps;

HotsnapLocal *hotsnap_local_new(const char *name, HotsnapNetwork *network,
                                HotsnapQueue *main, const HotsnapLocalOps *ops,
                                void *opaque, Error **errp);
/* The member goes: work that still waits in the queue begins nothing. */
void hotsnap_local_close(HotsnapLocal *l);
void hotsnap_local_free(HotsnapLocal *l); /* NULL is allowed */

/*
 * Iothread. Hands over work of the coordinator, in its order; takes @work. An
 * abort lets go of guest memory at once, the rest follows in the main loop.
 */
void hotsnap_local_work(HotsnapLocal *l, hs_work *work);

/* A snapshot or restore is on, or one is still being undone. */
bool hotsnap_local_busy(HotsnapLocal *l);

/* A snapshot is on. */
bool hotsnap_local_saving(HotsnapLocal *l);

/* The snapshot that is on fails for this reason. */
void hotsnap_local_fail(HotsnapLocal *l, const char *reason);

/* The current or most recent snapshot; NULL if there is none. */
HotsnapSnapshotInfo *hotsnap_local_info(HotsnapLocal *l);
void hotsnap_local_set_epoch(HotsnapLocal *l, uint64_t epoch);

/* Limits the copy of the snapshot that is on; false if none is. */
bool hotsnap_local_set_bandwidth(HotsnapLocal *l, uint64_t bandwidth);

#endif
