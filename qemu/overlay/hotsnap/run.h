/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One snapshot in this member: its parts, its worker thread, its end.
 *
 * The local life of the run (hotsnap/member.h) decides what is done, and when;
 * this file has the means. Functions are for the main loop unless a comment
 * names another thread.
 */
#ifndef HOTSNAP_RUN_H
#define HOTSNAP_RUN_H

#include "hold.h"
#include "part.h"

/* The member's means for a run; they outlive the run. */
typedef struct HotsnapRunPlace {
    const HotsnapRunOps *ops;
    void *opaque;            /* of @ops */
    HotsnapQueue *main;
    HotsnapNetwork *network;
    const char *member;      /* its name */
    int iothread_tid;        /* 0: none */
} HotsnapRunPlace;

/* Refuses a VM that cannot be saved: NULL after an error; nothing is left. */
HotsnapRun *hotsnap_run_begin(const HotsnapRunPlace *place,
                              const char *directory, const char *tag,
                              HotsnapSnapshotOptions *options, /* taken */
                              Error **errp);

/*
 * Runs @task in the worker thread. @done is called in the main loop, with the
 * error or NULL. No other task of this run may be under way. @manifest, which
 * is taken, is for HS_TASK_PUBLISH.
 */
void hotsnap_run_task(HotsnapRun *r, hs_task task, char *manifest,
                      void (*done)(void *opaque, hs_task task,
                                   const char *error));

/*
 * The pause, or the hold. On success the background copies have begun; with
 * mode stop-and-copy the VM stands until hotsnap_run_go_on().
 */
bool hotsnap_run_cut(HotsnapRun *r, Error **errp);
void hotsnap_run_go_on(HotsnapRun *r);

/*
 * The two halves of that in a barrier. Their errors leave nothing held;
 * hotsnap_hold_end() gives free what is.
 */
bool hotsnap_run_hold(HotsnapRun *r, uint64_t longest_us,
                      const HotsnapHoldOps *ops, void *opaque, Error **errp);
bool hotsnap_run_switch(HotsnapRun *r, Error **errp);

QDict *hotsnap_run_report(HotsnapRun *r);
/* NULL unless the pause went on when it was told. */
const hs_pause *hotsnap_run_late_pause(HotsnapRun *r);
/* False when there is nothing to tell: not begun with, or undone already. */
bool hotsnap_run_info(HotsnapRun *r, HotsnapSnapshotInfo *info);
/*
 * Without memory nothing is told. @expected_us: the end of the copy,
 * CLOCK_MONOTONIC; 0: it cannot tell.
 */
void hotsnap_run_progress(HotsnapRun *r, uint64_t *done, uint64_t *total,
                          uint64_t *expected_us);
/* After HS_TASK_PRECOPY: its result, see hs_member_precopied(). */
void hotsnap_run_precopied(HotsnapRun *r, bool *converged, uint64_t *left);
/* False when the run copies nothing. */
bool hotsnap_run_set_bandwidth(HotsnapRun *r, uint64_t bandwidth);
/* When the copy is to end, CLOCK_MONOTONIC; 0: as soon as it can. */
void hotsnap_run_set_finish(HotsnapRun *r, uint64_t finish_us);

/* After HS_TASK_UNDO: the main loop's part of it. */
void hotsnap_run_undo(HotsnapRun *r);

/*
 * Iothread or main loop: guest memory is let go of soon, even if threads wait
 * for storage. The caller sees to it that the run is not freed meanwhile. It
 * holds a lock of its own and no other, touches no guest memory, and waits for
 * nothing but the start of a thread.
 */
void hotsnap_run_stop(HotsnapRun *r, const char *reason);

/* The run is over. Its memory is freed by a thread. */
void hotsnap_run_free(HotsnapRun *r);

/* Waits for that thread. */
void hotsnap_run_join_free(void);

#endif
