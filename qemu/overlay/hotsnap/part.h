/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A run in this member, and the parts that take part in it.
 *
 * A part is something of the VM that is saved: memory (with the devices'
 * state), disks, network. All parts are behind one interface, so that the
 * code that drives a run (run.c, pause.c) knows none of them. Parts are called
 * in the order of the table in run.c, for an undo in the reverse order. The
 * run's content says which parts take part in it.
 *
 * Threads
 *   main loop   under the BQL
 *   worker      one thread per task, at most one at a time in a run, without
 *               the BQL: for work that blocks. It reaches the block layer and
 *               the mediator only through hotsnap_queue_call().
 *   stopper     in an abort, beside a task: lets go of the guest's memory.
 */
#ifndef HOTSNAP_PART_H
#define HOTSNAP_PART_H

#include "priority.h"
#include "qapi/qapi-types-hotsnap.h"
#include "qemu/atomic.h"
#include "qemu/bitops.h"
#include "qobject/qdict.h"
#include "queue.h"

#include <hotsnap/member.h>

#define HOTSNAP_PARTS 3

typedef struct HotsnapNetwork HotsnapNetwork;

typedef struct HotsnapRun HotsnapRun;

/* Events in a part that no call causes. Any thread. */
typedef struct HotsnapRunOps {
    /* Each page of memory is copied; the image is not complete yet. */
    void (*memory_copied)(HotsnapRun *r);
    /*
     * The image of memory is complete, or failed for @error. A run without
     * memory says so right after the cut.
     */
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
    bool stands;            /* main loop: the VM stays stopped after the cut */
    HotsnapPriority *priority;
    void *part[HOTSNAP_PARTS]; /* from each part's begin(); NULL: nothing */
};

/*
 * Any member may be NULL: then there is nothing to do. Functions that return
 * false have set @errp.
 */
typedef struct HotsnapPart {
    const char *name;
    unsigned contents; /* BIT(HotsnapContent) of the runs with this part */
    bool colors;       /* not in a run that colors no frames: in no barrier */

    /*
     * Main loop, the VM runs; quick. Refuses a VM that cannot be saved, and
     * returns the part's object for this run; NULL after an error.
     */
    void *(*begin)(HotsnapRun *r, Error **errp);

    /* Worker, the VM runs: everything slow or fallible. */
    bool (*prepare)(void *opaque, Error **errp);

    /* Worker, the VM runs, mode precopy: what can be copied before the cut. */
    bool (*precopy)(void *opaque, Error **errp);

    /* Worker, the VM runs: the cut may come at any time after this. */
    bool (*arm)(void *opaque, Error **errp);

    /*
     * Main loop, in the pause: vCPUs stand still, disks are drained; or in the
     * hold: vCPUs run, disks are drained. The part's instant. Notes its steps
     * with hotsnap_pause_step().
     */
    bool (*cut)(void *opaque, Error **errp);

    /* The same place, a later part's cut has failed: takes the cut back. */
    void (*uncut)(void *opaque);

    /* Main loop, the VM runs again: copying in the background begins. */
    bool (*resume)(void *opaque, Error **errp);

    /* Worker, after that: data already on storage becomes durable. */
    bool (*settle)(void *opaque, Error **errp);

    /* Worker, when memory is saved and all channels are closed. */
    bool (*finish)(void *opaque, Error **errp);

    /* Main loop, after all that: for the manifest. */
    void (*report)(void *opaque, QDict *json);

    /* Main loop, at any time: for query-hotsnap. */
    void (*info)(void *opaque, HotsnapSnapshotInfo *info);

    /*
     * Stopper: guest memory is used no more when this returns. It takes no
     * lock whose holder may wait for guest memory (the BQL).
     */
    void (*stop)(void *opaque, const char *reason);

    /* Worker, after stop: removes files. */
    void (*undo)(void *opaque, const char *reason);

    /* Main loop, after that. */
    void (*undo_main)(void *opaque);

    /* Main loop, the run is over: frees the things that need the BQL. */
    void (*release)(void *opaque);

    /* A thread of its own, last: frees the rest, which may take time. */
    void (*free)(void *opaque);
} HotsnapPart;

static inline HotsnapContent hotsnap_run_content(const HotsnapRun *r)
{
    return r->options->has_content ? r->options->content
                                   : HOTSNAP_CONTENT_ALL;
}

static inline HotsnapMode hotsnap_run_mode(const HotsnapRun *r)
{
    return r->options->has_mode ? r->options->mode : HOTSNAP_MODE_HOT;
}

static inline bool hotsnap_run_is_barrier(const HotsnapRun *r)
{
    return r->options->has_cut && r->options->cut == HOTSNAP_CUT_BARRIER;
}

/*
 * Any thread: the task under way ends soon. An error after that has this
 * reason.
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
