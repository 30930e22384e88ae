/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A run in this member, and the parts that take part in it.
 *
 * A part is what is saved of the VM: memory (with the devices' state), disks,
 * network. All parts are behind one interface, so that what drives a run
 * (run.c, pause.c) knows none of them. Parts are called in the order of the
 * table in run.c, for an undo in the reverse order.
 *
 * Threads
 *   main loop   under the BQL
 *   worker      one thread per task, at most one at a time in a run, without
 *               the BQL: what blocks. It reaches the block layer and the
 *               mediator only through hotsnap_queue_call().
 *   stopper     in an abort, beside a task: lets go of the guest's memory.
 */
#ifndef HOTSNAP_PART_H
#define HOTSNAP_PART_H

#include "qapi/qapi-types-hotsnap.h"
#include "qemu/atomic.h"
#include "qobject/qdict.h"
#include "queue.h"

#include <hotsnap/member.h>

#define HOTSNAP_PARTS 3

typedef struct HotsnapNetwork HotsnapNetwork;

typedef struct HotsnapRun HotsnapRun;

/* What happens in a part by itself. Any thread. */
typedef struct HotsnapRunOps {
    /* The copy of memory is complete, or failed for @error. */
    void (*memory_done)(HotsnapRun *r, const char *error);
    /* The run cannot go on. Takes @err. */
    void (*failed)(HotsnapRun *r, Error *err);
} HotsnapRunOps;

struct HotsnapRun {
    /* Do not change while a part uses them. */
    const HotsnapRunOps *ops;
    void *opaque;           /* of @ops */
    HotsnapQueue *main;     /* work for the main loop */
    HotsnapNetwork *network;
    const char *member;     /* its name */
    char *tag;
    char *folder;           /* DIRECTORY/TAG.partial/MEMBER */
    HotsnapSnapshotOptions *options;

    char *cancel_reason;    /* atomic; set once */
    bool cancelled;         /* atomic: tasks poll it and end */
    hs_pause pause;
    void *part[HOTSNAP_PARTS]; /* what each has made; NULL: nothing */
};

/*
 * Any member may be NULL: then there is nothing to do. Functions that return
 * false have set @errp.
 */
typedef struct HotsnapPart {
    const char *name;

    /*
     * Main loop, the VM runs; quick. Refuses what cannot be in a snapshot,
     * and returns what the part needs in this run; NULL after an error.
     */
    void *(*begin)(HotsnapRun *r, Error **errp);

    /* Worker, the VM runs: everything slow or fallible. */
    bool (*prepare)(void *opaque, Error **errp);

    /* Worker, the VM runs: the cut may come at any time after this. */
    bool (*arm)(void *opaque, Error **errp);

    /*
     * Main loop, in the pause: vCPUs stand still, disks are drained. The
     * part's instant. Notes its steps with hotsnap_pause_step().
     */
    bool (*cut)(void *opaque, Error **errp);

    /* The same place, a later part's cut has failed: as it was before. */
    void (*uncut)(void *opaque);

    /* Main loop, the VM runs again: what is saved in the background begins. */
    bool (*resume)(void *opaque, Error **errp);

    /* Worker, after that: what lies on storage already becomes durable. */
    bool (*settle)(void *opaque, Error **errp);

    /* Worker, when memory is saved and all channels are closed. */
    bool (*finish)(void *opaque, Error **errp);

    /* Main loop, after all that: for the manifest. */
    void (*report)(void *opaque, QDict *json);

    /* Main loop, at any time: for query-hotsnap. */
    void (*info)(void *opaque, HotsnapSnapshotInfo *info);

    /*
     * Stopper: guest memory is used no more when this returns. It needs no
     * lock that a thread may hold which waits for guest memory (the BQL).
     */
    void (*stop)(void *opaque, const char *reason);

    /* Worker, after stop: files go. */
    void (*undo)(void *opaque, const char *reason);

    /* Main loop, after that. */
    void (*undo_main)(void *opaque);

    /* Main loop, the run is over: what needs the BQL. */
    void (*release)(void *opaque);

    /* A thread of its own, last: the rest, which may take time. */
    void (*free)(void *opaque);
} HotsnapPart;

/*
 * Any thread: what is under way ends soon. What goes wrong after that has
 * this reason.
 */
static inline void hotsnap_run_cancel(HotsnapRun *r, const char *reason)
{
    char *copy = g_strdup(reason);

    if (qatomic_cmpxchg(&r->cancel_reason, NULL, copy)) {
        g_free(copy);
    }
    qatomic_set(&r->cancelled, true);
}

#endif
