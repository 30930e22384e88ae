/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The local life of a run (a cluster snapshot or restore) in one member: between the coordinator,
 * which gives the work, and the machine, which does it.
 *
 * Sans-I/O: work, answers and frames go in, steps come out (hs_member_next_step). No clock, socket,
 * file or thread inside; the same code runs in QEMU and in the simulator. Not thread safe: QEMU
 * calls it under the BQL, in the main loop. Conventions as in base.h.
 *
 * It drives the packet mediator by itself: member table, coloring, expected counts, the close of
 * the channels, the reset. The executor calls hs_mediator_cut() in the pause, hs_mediator_frame()
 * for each frame, hs_mediator_next_released() at HS_STEP_RELEASE, hs_mediator_write_channel() in
 * HS_TASK_CHANNEL, and adds and removes NICs; it changes nothing else of the mediator.
 *
 * The executor is the caller of these functions. It takes the steps in a loop after each call, in
 * their order, and carries each out before it takes the next. It takes none inside the handling of
 * a frame or of another step. It may answer while it carries a step out, or later.
 *
 * A step that needs an answer gets exactly one, and until then no other step that needs one is
 * given: no two tasks run at once, and no task runs beside the cut. That holds in an abort, too:
 * a step under way is waited for, and its errors are ignored then. Only a load and a start are not
 * waited for: after HS_STEP_END_LOAD they have no answer any more.
 *
 * No call is wrong in any state. An answer that is not due (late, doubled) is ignored and counted.
 */
#ifndef HOTSNAP_MEMBER_H
#define HOTSNAP_MEMBER_H

#include <stdbool.h>
#include <stdint.h>

#include "hotsnap/base.h"
#include "hotsnap/mediator.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hs_member hs_member;
typedef struct hs_work hs_work;   /* from the coordinator, for hs_member_work() */
typedef struct hs_event hs_event; /* from HS_STEP_EVENT, for hs_coordinator_event() */

/*
 * Tasks take long or wait for storage, and so run in a worker thread beside the VM. Each is
 * answered with hs_member_task_done(). A task may end early, with an error, once
 * hs_work_abort_reason() has told the iothread that an abort is on its way.
 */
typedef enum hs_task {
    HS_TASK_PREPARE = 1, /* folder, overlays, first flush; the snapshot of memory is made */
    /*
     * Mode precopy only: hs_snapshot_precopy(). hs_member_precopied() tells the result first.
     */
    HS_TASK_PRECOPY,
    HS_TASK_ARM, /* flush again, so that the pause flushes little; protect memory */
    /*
     * Background copies start (hs_member_memory_done() tells how they end); disks are flushed, made
     * read-only and summed.
     */
    HS_TASK_SETTLE,
    /*
     * hs_mediator_write_channel(), sums of its files, and a sync of the folder, in which all files
     * of this member are by then. It reads the record without the BQL: the record stands still
     * until the answer.
     */
    HS_TASK_CHANNEL,
    HS_TASK_PUBLISH, /* write hs_member_manifest(), rename TAG.partial to TAG */
    /*
     * First hs_snapshot_abort() and hs_snapshot_free(), so that nothing waits for storage any more;
     * then the removal of this member's own files, and of TAG.partial when it is empty. An error
     * names the parts that could not be undone; the rest is undone just the same.
     */
    HS_TASK_UNDO,
} hs_task;

typedef enum hs_step_kind {
    /*
     * Check that nothing forbids a snapshot, forbid all that would disturb it, make the executor's
     * object of the run; quick. -> hs_member_begun(). After an error nothing is left of this step,
     * and no HS_STEP_UNDO or HS_STEP_FORGET comes.
     */
    HS_STEP_BEGIN_SNAPSHOT = 1, /* u.begin_snapshot */
    HS_STEP_TASK,               /* u.task -> hs_member_task_done() */
    /*
     * Pause, cut, resume, all in this step (hs_mediator_cut() is part of it)
     * -> hs_member_cut_done(). After an error the VM runs, uncut.
     */
    HS_STEP_CUT,     /* u.cut */
    HS_STEP_PACE,    /* u.finish_us: hs_snapshot_set_deadline(); no answer */
    HS_STEP_RELEASE, /* deliver the frames of hs_mediator_next_released(); no answer */
    HS_STEP_REPORT,  /* describe this member's part for the manifest -> hs_member_report() */
    /*
     * After HS_TASK_UNDO, the main loop's part: disks leave their overlays. -> hs_member_undone()
     */
    HS_STEP_UNDO,
    HS_STEP_EVENT,  /* u.event: the executor owns it now; post it, in order, to the coordinator */
    HS_STEP_FORGET, /* u.forget: the run is over here, free the executor's object; no answer */
    /*
     * Restore: check, and load the state and the channel without starting the VM
     * -> hs_member_loaded(), when the VM is ready to start. Frames to the guest wait.
     */
    HS_STEP_BEGIN_LOAD, /* u.begin_load */
    /*
     * Start the VM, unless it was paused at the cut; play the channel back, then let the waiting
     * frames through; free the load's resources. -> hs_member_started(); after an error the VM does
     * not run.
     */
    HS_STEP_START,
    HS_STEP_STOP,     /* restore aborted after HS_STEP_START: stop the VM; no answer */
    HS_STEP_END_LOAD, /* restore aborted: stop loading, free its resources, let frames through;
                         no answer, and none any more to HS_STEP_BEGIN_LOAD and HS_STEP_START */
    /*
     * Barrier: wait until no disk request of the guest is in flight, and let none begin; the VM
     * runs on -> hs_member_held(). After an error nothing is held. `longest_us` after the step has
     * begun, at the latest, the requests go on by themselves: while the step waits it ends with an
     * error, later hs_member_hold_ended() tells.
     */
    HS_STEP_HOLD, /* u.longest_us */
    /*
     * Put the disks on their overlays, let the requests go on -> hs_member_switched(). An error if
     * the hold has ended before; the disks are as they were after any error.
     */
    HS_STEP_SWITCH,
    HS_STEP_RELEASE_REQUESTS, /* end the hold, if there is one; no answer */
} hs_step_kind;

/* Strings live until the next call of hs_member_next_step(). */
typedef struct hs_step {
    hs_step_kind kind;
    union {
        struct {
            const char *run, *tag;
            const char *directory; /* of the bundles; this member's folder is
                                      DIRECTORY/TAG.partial/NAME */
            const char *initiator;
            bool leads; /* this member is the initiator */
            bool coloring;
            const char *options_json; /* an object, as the user gave it */
        } begin_snapshot;
        hs_task task;
        struct {
            const char *cause; /* "snapshot" or "red-frame" */
        } cut;
        uint64_t longest_us;
        uint64_t finish_us; /* CLOCK_MONOTONIC; 0: as soon as it can */
        hs_event *event;
        struct {
            bool kept;          /* files and overlays stay; else all is undone already */
            bool in_doubt;      /* kept, though it is not known whether the bundle was published */
            const char *reason; /* of the doubt, or of the abort; may be "" */
        } forget;
        struct {
            const char *run, *bundle, *initiator;
            bool leads;
            const char *options_json;
        } begin_load;
    } u;
} hs_step;

#define HS_PAUSE_STEPS 12

typedef struct hs_pause {
    int64_t begin_ns, end_ns;
    unsigned count; /* of the steps */
    struct {
        const char *name;
        uint64_t us;
    } step[HS_PAUSE_STEPS];
} hs_pause;

/*
 * `name`: this member's, as for hs_coordinator_new(). `mediator` is not owned, and must outlive the
 * member. `boot_id` of the host: the pauses of two members can be compared when theirs are equal.
 */
hs_member *hs_member_new(const char *name, hs_mediator *mediator, const char *boot_id,
                         char **error);
void hs_member_free(hs_member *m);

/* Work from the coordinator, in its order. Takes `work`. */
void hs_member_work(hs_member *m, hs_work *work);

/*
 * NULL unless the work is an abort. The iothread asks before it hands the work over: the main loop
 * may be waiting for storage, in a page that is not saved yet, and takes no work before the memory
 * is released (hs_snapshot_abort()). The string lives as long as the work.
 */
const char *hs_work_abort_reason(const hs_work *work);
bool hs_work_is_cut(const hs_work *work); /* SNAPSHOT has come: the VM will be paused at once */
const char *hs_work_name(const hs_work *work); /* "prepare", ..: for traces */
void hs_work_free(hs_work *work);              /* work that is not handed over, or NULL */
const char *hs_event_name(const hs_event *event);
void hs_event_free(hs_event *event); /* an event that is not handed over, or NULL */

/* Answers; `error` is NULL when all went well. */
void hs_member_begun(hs_member *m, const char *error);
/* Before hs_member_task_done() of HS_TASK_PRECOPY; `left`: bytes that the last round left. */
void hs_member_precopied(hs_member *m, bool converged, uint64_t left);
void hs_member_task_done(hs_member *m, hs_task task, const char *error);
void hs_member_cut_done(hs_member *m, const char *error, const hs_pause *pause);
/* `pause`: NULL, or that of the cut if it was not over when hs_member_cut_done() told it. */
void hs_member_report(hs_member *m, const char *json, const hs_pause *pause);
void hs_member_held(hs_member *m, const char *error);
void hs_member_switched(hs_member *m, const char *error, const hs_pause *hold);
void hs_member_undone(hs_member *m, const char *error); /* error: the parts not undone */
void hs_member_loaded(hs_member *m, const char *error, const char *json);  /* json: NULL is {} */
void hs_member_started(hs_member *m, const char *error, const char *json); /* {"played":N,
                                                                              "start_ns":N} */

/* News, which answer no step. */
/* The copy of memory is complete, or failed. After HS_STEP_CUT; an error at any time. */
void hs_member_memory_done(hs_member *m, const char *error);
/* This run fails for another reason, such as memory that was taken away. */
void hs_member_failed(hs_member *m, const char *error);
/*
 * The requests that HS_STEP_HOLD held go on, after the longest time, or for another reason. To be
 * told by the thread that carries the steps out, in the order in which it happens.
 */
void hs_member_hold_ended(hs_member *m, const char *error);
/*
 * hs_mediator_frame() returned HS_HOLD_AND_CUT. Forces the cut when this member is armed. Before
 * that the mediator holds the frame, and the cut is taken as soon as this member is armed.
 */
void hs_member_red_frame(hs_member *m);
/*
 * A frame to the guest has passed the mediator: the channels may be complete now. Cheap. Returns
 * whether steps are due, which are not to be taken inside the handling of a frame.
 */
bool hs_member_frame_received(hs_member *m);
/*
 * From a timer of the main loop, a few times a second while a run is on: tells the coordinator that
 * the main loop is alive and, while memory is saved, how many bytes are done, and when the copy is
 * expected to end (CLOCK_MONOTONIC; 0: it cannot tell).
 */
void hs_member_beat(hs_member *m, uint64_t done, uint64_t total, uint64_t expected_us);

/* Next thing to do; false when there is none. */
bool hs_member_next_step(hs_member *m, hs_step *step);

/*
 * HS_TASK_PUBLISH: the text of manifest.json. `created`: now, ISO 8601 in UTC. Main loop only: call
 * it before the worker is started. Free with hs_string_free(); NULL when nothing is to be
 * published.
 */
char *hs_member_manifest(hs_member *m, const char *created);

bool hs_member_busy(const hs_member *m);     /* a run is on: commands that disturb it are refused */
bool hs_member_aborting(const hs_member *m); /* and is being undone */
const char *hs_member_state_name(const hs_member *m); /* "idle", "preparing", .. */
uint64_t hs_member_ignored(const hs_member *m);       /* calls that were not due, so far */

#ifdef __cplusplus
}
#endif
#endif
