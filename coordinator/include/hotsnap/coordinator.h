/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The cluster protocol of one member: initiator or peer of a cluster snapshot or restore.
 * (HotSnap, LISA '13, section 3: "HotSnap protocol".)
 *
 * Sans-I/O: what happened goes in (bytes from a link, the time, local progress), what to do comes
 * out (hs_coordinator_next_action). No clock, socket, file or thread inside; the same code runs in
 * QEMU and in the simulator. Not thread safe: one thread at a time. Conventions as in base.h.
 *
 * An epoch, seen from the initiator (I) and a peer (P):
 *
 *   PREPARE        I>P  all run: files, overlays, traps                 PREPARED | REFUSED  P>I
 *   INSTALL        I>P  all run: epoch number and member table known,   INSTALLED           P>I
 *                       colored frames are understood
 *   ARM            I>P  all run: coloring white, memory protected       ARMED               P>I
 *   SNAPSHOT       I>P  the cut (or earlier, at the first red frame)    TRANSIENT_SNAP_FIN  P>I
 *                       carries the white counts
 *   ALL_TRANSIENT_SNAP_FIN  I>P  carries what to expect on each channel CHANNELS_FIN        P>I
 *   COLORING_END   I>P  all channels are closed: frames go natural
 *                       background copies run                           FULL_SNAP_FIN       P>I
 *   ALL_FULL_SNAP_FIN  I>P  the bundle is published
 *   ABORT          any  at any point: every VM runs on, disks whole     ABORTED             P>I
 *
 * and a restore: RESTORE I>P, LOADED P>I, START I>P, STARTED P>I, RESTORED I>P.
 *
 * Members form a star around the initiator. Messages are JSON, framed by a 4-byte big-endian
 * length (docs/formats/protocol.md, which also argues why the cut is consistent and what happens
 * when a member is lost in each phase). The initiator is a member like the others: it gets the
 * same work to do.
 */
#ifndef HOTSNAP_COORDINATOR_H
#define HOTSNAP_COORDINATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hotsnap/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hs_coordinator hs_coordinator;
typedef struct hs_work hs_work;   /* what a run asks of the machine (coordinator/member/work.h) */
typedef struct hs_event hs_event; /* what the machine answers, or tells unasked */

typedef uint64_t hs_link; /* a connection, numbered by the caller; never reused; 0 = none */

typedef enum hs_action_kind {
    HS_DO_CONNECT = 1, /* open a connection to `text` (address), report link_up or link_down */
    HS_DO_SEND,        /* send `data` on `link` */
    HS_DO_CLOSE,       /* close `link` (after what was sent); no link_down is expected back */
    HS_DO_TIMER,       /* call hs_coordinator_tick at `deadline_us` (replaces the earlier one);
                          UINT64_MAX = no timer */
    /*
     * Legacy: what hs_work_kind() says of HS_DO_WORK, for a caller that answers with
     * hs_coordinator_local(). `text` is JSON with what is needed; unless a comment says otherwise
     * {"tag","epoch"}.
     */
    HS_DO_PREPARE,        /* {"run","tag","directory","initiator","self","role":"initiator"|"peer",
                             "coloring":bool,"options":{..}} -> HS_LOCAL_PREPARED */
    HS_DO_INSTALL,        /* {"epoch","tag","self","coloring","members":[{"name","macs":[..]}]}:
                             hs_mediator_prepare -> HS_LOCAL_INSTALLED */
    HS_DO_ARM,            /* hs_mediator_start_coloring, then protect memory -> HS_LOCAL_ARMED */
    HS_DO_CUT,            /* take the transient snapshot now -> HS_LOCAL_CUT. A no-op when a red
                             frame's cut is under way or done: one HS_LOCAL_CUT per epoch */
    HS_DO_EXPECT,         /* `text` as it is to hs_mediator_expect -> HS_LOCAL_CHANNELS_FIN as soon
                             as hs_mediator_channels_complete */
    HS_DO_CLOSE_CHANNELS, /* the drain time is over: hs_mediator_close_channels, then answer */
    HS_DO_END_COLORING,   /* hs_mediator_end_coloring; no answer */
    HS_DO_PUBLISH,        /* initiator: write the manifest from `text`, rename TAG.partial to TAG
                             -> HS_LOCAL_PUBLISHED, or HS_LOCAL_FAILED: then no TAG exists */
    HS_DO_COMMIT,         /* the epoch (or restore) is over, and kept; no answer.
                             {"tag","epoch","in_doubt":bool,"reason"}: in doubt, the initiator was
                             lost after our FULL_SNAP_FIN, so that a published bundle may refer to
                             our files: keep them and the disk overlays just the same */
    /*
     * Undo all of this epoch; `text` is the reason -> HS_LOCAL_ABORTED, exactly once, and nothing
     * else of this run after it. It comes after every HS_LOCAL_FAILED (to clean up), and may come
     * while an answer is outstanding; that answer may then be left out. Remove this member's own
     * files only, and TAG.partial only when it is empty: a peer in doubt may have files there.
     * In a restore: leave, or put, the VM in the stopped state.
     */
    HS_DO_ABORT,
    HS_DO_LOAD,  /* restore: {"run","bundle","initiator","self","role","options"}: load the own
                    state -> HS_LOCAL_LOADED */
    HS_DO_START, /* restore: start the VM, play the channels back -> HS_LOCAL_STARTED */
    /* For the user of this member. */
    HS_SAY_PHASE,    /* phase changed: {"epoch":N,"tag":..,"role":"initiator"|"peer","phase":..,
                        "reason":..}; phase is "prepare"|"install"|"arm"|"snapshot"|
                        "transient-fin"|"full"|"publish"|"committed"|"aborting"|"aborted"|
                        "in-doubt"|"load"|"start"|"restored"; epoch is 0 until known */
    HS_SAY_PROGRESS, /* initiator: {"done":bytes,"total":bytes} over all members */
    HS_SAY_FINISHED, /* initiator: the command is over; `text` is the result (manifest) JSON,
                        or, when `failed`, the error message */
    /*
     * Local work: `work`, which the caller owns now (hs_work_free). It is done in the order in
     * which it comes, and answered with hs_coordinator_event().
     */
    HS_DO_WORK,
} hs_action_kind;

typedef struct hs_action {
    hs_action_kind kind;
    hs_link link;
    uint64_t deadline_us;
    const char *text;    /* NUL-terminated; valid until the next call on this coordinator */
    const uint8_t *data; /* likewise */
    size_t size;
    bool failed;
    hs_work *work; /* of HS_DO_WORK, else NULL; not freed by the coordinator */
} hs_action;

void hs_work_free(hs_work *work);    /* NULL is allowed */
void hs_event_free(hs_event *event); /* of one that no coordinator took; NULL is allowed */

/* Legacy: the kind of work, HS_DO_PREPARE to HS_DO_START; hs_action has the text that goes with it.
 */
hs_action_kind hs_work_kind(const hs_work *work);

/*
 * Legacy: answers to local work. One that is not legal in the state of the epoch (late, doubled, of
 * an aborted run) is ignored and counted in the status as "ignored_events".
 */
typedef enum hs_local_kind {
    HS_LOCAL_PREPARED = 1, /* {"nics":[{"nic","mac"}], "info":{..}}; info's "boot_id" (of the host)
                              tells whether members' pauses can be compared */
    HS_LOCAL_INSTALLED,    /* {} */
    HS_LOCAL_ARMED,        /* {} */
    HS_LOCAL_CUT, /* {"white_sent":{"src>dst":N}, "pause":{"begin_ns","end_ns","steps":[..]},
                     "cause":"snapshot"|"red-frame"}; also unasked, when a red frame
                     forced the cut before SNAPSHOT came. CLOCK_MONOTONIC */
    HS_LOCAL_CHANNELS_FIN, /* {"recorded":N,"lost":N} */
    HS_LOCAL_FULL_FIN,     /* {..report of this member, goes into the manifest..}; all its files
                              (image, disks, channel) are complete and durable. At any time
                              after HS_LOCAL_CUT */
    HS_LOCAL_PROGRESS,     /* {"done":N,"total":N} */
    HS_LOCAL_PUBLISHED,    /* {} */
    HS_LOCAL_ABORTED,      /* {}, or {"error":".."} when something could not be undone */
    HS_LOCAL_LOADED,       /* {..passed through to the result..} */
    HS_LOCAL_STARTED,      /* {"played":N,"start_ns":N} */
    HS_LOCAL_FAILED,       /* {"error":".."}: any local step went wrong; ends the epoch */
} hs_local_kind;

/* `name`: this member's name, unique in its cluster: [A-Za-z0-9._-]{1,64}. */
hs_coordinator *hs_coordinator_new(const char *name, char **error);
void hs_coordinator_free(hs_coordinator *c);

/*
 * Becomes initiator of a cluster snapshot. `request_json`:
 *   {"tag":"t1", "directory":"/where/bundles/are",
 *    "members":[{"name":"db","address":"unix:/run/db.sock"}, ...],   (this member included or not)
 *    "coloring":true, "options":{..passed through to the machine..},
 *    and, all optional, in microseconds (default in parentheses):
 *    "prepare_timeout_us" (60 s, connecting included), "arm_timeout_us" (30 s, INSTALL and ARM
 *    each), "cut_timeout_us" (10 s), "drain_us" (200 ms: what is not received by then, is declared
 *    lost), "settle_us" (10 ms: from the last ARMED to SNAPSHOT; uncolored frames are delivered by
 *    then), "full_timeout_us" (0 = none), "abort_timeout_us" (10 s), "heartbeat_us" (1 s),
 *    "silence_timeout_us" (30 s: a member that says nothing for so long is taken for dead)}
 * Fails when an epoch runs here already, or on a bad request.
 */
bool hs_coordinator_snapshot(hs_coordinator *c, const char *request_json, uint64_t now_us,
                             char **error);
/*
 * Becomes initiator of a restore; request as above with "bundle" instead of tag and directory, and
 * "load_timeout_us" (0 = none), "start_timeout_us" (30 s).
 */
bool hs_coordinator_restore(hs_coordinator *c, const char *request_json, uint64_t now_us,
                            char **error);
/*
 * The user cancels what this member initiated; HS_SAY_FINISHED tells how it ended. No effect when
 * nothing is initiated here, and once the bundle is being published, or START of a restore is out:
 * the command then ends as it would.
 */
void hs_coordinator_cancel(hs_coordinator *c, const char *reason, uint64_t now_us);

/* Links. `inbound`: the other side connected to us; else `address` is what HS_DO_CONNECT named. */
void hs_coordinator_link_up(hs_coordinator *c, hs_link link, bool inbound, const char *address,
                            uint64_t now_us);
/* Also for a failed HS_DO_CONNECT: then link is 0 and address says which. */
void hs_coordinator_link_down(hs_coordinator *c, hs_link link, const char *address,
                              const char *reason, uint64_t now_us);
void hs_coordinator_bytes(hs_coordinator *c, hs_link link, const uint8_t *data, size_t size,
                          uint64_t now_us);
/* Too early or unasked calls do no harm. */
void hs_coordinator_tick(hs_coordinator *c, uint64_t now_us);
/*
 * The machine answers, or tells. Takes `event`; NULL is ignored. An event that is not legal in the
 * state of the run (late, doubled, of an aborted run) is ignored and counted in the status as
 * "ignored_events".
 */
void hs_coordinator_event(hs_coordinator *c, hs_event *event, uint64_t now_us);
/* Legacy: the same as kind and JSON; `json` may be NULL for {}. */
void hs_coordinator_local(hs_coordinator *c, hs_local_kind kind, const char *json, uint64_t now_us);

/* Next thing to do; false when there is none. Call in a loop after each call above. */
bool hs_coordinator_next_action(hs_coordinator *c, hs_action *action);

/*
 * State for query-hotsnap: {"name","role":"none"|"initiator"|"peer","phase" (as in HS_SAY_PHASE, or
 * "idle"),"epoch","last_epoch","tag","initiator","reason","members":[{"name","address","state",
 * "done","total"}],"last":{"tag","epoch","role","phase","reason"},"ignored_events"}. Free with
 * hs_string_free.
 */
char *hs_coordinator_status_json(hs_coordinator *c);

#ifdef __cplusplus
}
#endif
#endif
