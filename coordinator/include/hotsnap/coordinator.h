/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The cluster protocol of one member: initiator or peer of a cluster snapshot or restore.
 * (HotSnap, LISA '13, section 3: "HotSnap protocol".)
 *
 * Sans-I/O: events go in (bytes from a link, the time, local progress), actions come out
 * (hs_coordinator_next_action). No clock, socket, file or thread inside; the same code runs in
 * QEMU and in the simulator. Not thread safe: one thread at a time. Conventions as in base.h.
 * No function lets an exception out. An error in a function that cannot report it ends the run.
 *
 * An epoch, seen from the initiator (I) and a peer (P):
 *
 *   PREPARE        I>P  all run: files, overlays, traps                 PREPARED | REFUSED  P>I
 *   INSTALL        I>P  all run: epoch number and member table known,   INSTALLED           P>I
 *                       colored frames are understood
 *   ARM            I>P  all run: coloring white, memory protected       ARMED               P>I
 *   SNAPSHOT       I>P  the cut (or earlier, at the first red frame)    TRANSIENT_SNAP_FIN  P>I
 *                       carries the white counts
 *   ALL_TRANSIENT_SNAP_FIN  I>P  carries the expected counts by channel CHANNELS_FIN        P>I
 *   COLORING_END   I>P  all channels are closed: frames go natural
 *   RETARGET       I>P  the copies are to end at another instant
 *                       background copies run                           FULL_SNAP_FIN       P>I
 *   ALL_FULL_SNAP_FIN  I>P  the bundle is published
 *   ABORT          any  at any point: every VM runs on, disks whole     ABORTED             P>I
 *
 * a snapshot of disks behind a barrier (coordinator/barrier_run.h):
 *
 *   PREPARE_BARRIER  I>P  all run: files, overlays                      PREPARED | REFUSED  P>I
 *   FLUSH          I>P  all run: epoch number known, disks flushed      FLUSHED             P>I
 *   HOLD           I>P  all run: disk requests are held                 HELD                P>I
 *   SWITCH         I>P  the cut; requests go on                         SWITCHED            P>I
 *   ALL_SWITCHED   I>P  all have cut                                    FULL_SNAP_FIN       P>I
 *   ALL_FULL_SNAP_FIN  I>P  the bundle is published
 *
 * and a restore: RESTORE I>P, LOADED P>I, START I>P, STARTED P>I, RESTORED I>P.
 *
 * Members form a star around the initiator. Messages are JSON, framed by a 4-byte big-endian
 * length (docs/formats/protocol.md, which also argues why the cut is consistent and says what the
 * loss of a member means in each phase). The initiator is a member like the others: it gets the
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
typedef struct hs_work hs_work;   /* of a run, for the machine (coordinator/member/work.h) */
typedef struct hs_event hs_event; /* of the machine: an answer, or news */

typedef uint64_t hs_link; /* a connection, numbered by the caller; never reused; 0 = none */

typedef enum hs_action_kind {
    HS_DO_CONNECT = 1, /* open a connection to `text` (address), report link_up or link_down */
    HS_DO_SEND,        /* send `data` on `link` */
    HS_DO_CLOSE,       /* close `link` (after all that was sent); no link_down is expected back.
                          `text`: what the other side did wrong, or "" */
    HS_DO_TIMER,       /* call hs_coordinator_tick at `deadline_us` (replaces the earlier one);
                          UINT64_MAX = no timer */
    /*
     * Local work: `work`, which the caller owns now (hs_member_work, or hs_work_free). It is done
     * in the order in which it comes, and answered with hs_coordinator_event(). All runs have such
     * work, and all members get it, the initiator too.
     */
    HS_DO_WORK,
    /* For the user of this member. */
    HS_SAY_PHASE,    /* phase changed: {"epoch":N,"tag":..,"role":"initiator"|"peer","phase":..,
                        "reason":..}; phase is "prepare"|"install"|"arm"|"snapshot"|
                        "transient-fin"|"flush"|"hold"|"switch"|"full"|"publish"|"committed"|
                        "aborting"|"aborted"|"in-doubt"|"load"|"start"|"restored"; epoch is 0
                        until known */
    HS_SAY_PROGRESS, /* initiator: {"done":bytes,"total":bytes} over all members */
    HS_SAY_WARNING,  /* initiator: {"epoch":N,"tag":..,"message":..}: something is not as it
                        was asked for, and the command goes on; in the result, too */
    HS_SAY_FINISHED, /* initiator: the command is over; `text` is the result (manifest) JSON,
                        or, when `failed`, the error message */
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

/* `name`: this member's name, unique in its cluster: [A-Za-z0-9._-]{1,64}. */
hs_coordinator *hs_coordinator_new(const char *name, char **error);
void hs_coordinator_free(hs_coordinator *c);

/*
 * Becomes initiator of a cluster snapshot. `request_json`:
 *   {"tag":"t1", "directory":"/where/bundles/are",
 *    "members":[{"name":"db","address":"unix:/run/db.sock"}, ...],   (this member included or not)
 *    "coloring":true, "options":{..passed through to the machine..},
 *    "content":"all" or "disks" (the manifest says it; the machine learns it from the options),
 *    "cut":"causal" or "barrier" (for "content":"disks" only; default: causal),
 *    and, all optional, in microseconds (default in parentheses):
 *    "prepare_timeout_us" (60 s, connecting included), "arm_timeout_us" (30 s, INSTALL and ARM
 *    each), "cut_timeout_us" (10 s), "drain_us" (200 ms: frames not received by then are declared
 *    lost), "settle_us" (10 ms: from the last ARMED to SNAPSHOT; uncolored frames are delivered by
 *    then), "duration_us" (0 = none: the copies of all members end at that time after the first
 *    cut; with "strict":true the run is aborted when they cannot), "full_timeout_us" (0 = none),
 *    "hold_us" (200 ms: with "cut":"barrier", the longest time for which a member holds its disk
 *    requests; then it gives them free, and the run is aborted),
 *    "abort_timeout_us" (10 s), "heartbeat_us" (1 s), "silence_timeout_us" (30 s: a member that
 *    says nothing for so long is taken for dead)}
 * Fails when a run is on here already, or on a bad request.
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
 * The user cancels the run that this member initiated; HS_SAY_FINISHED tells how it ended. No
 * effect when this member leads no run, once the bundle is being published, or once START of a
 * restore is out: the command then ends as it would have ended.
 */
void hs_coordinator_cancel(hs_coordinator *c, const char *reason, uint64_t now_us);
/*
 * Another duration for the snapshot that this member leads, from the cut on; 0: none, each copy
 * ends as soon as it can. Fails when this member leads no snapshot, or it is ending.
 */
bool hs_coordinator_set_duration(hs_coordinator *c, uint64_t duration_us, uint64_t now_us,
                                 char **error);

/* Links. `inbound`: the other side connected to us; else `address` is that of HS_DO_CONNECT. */
void hs_coordinator_link_up(hs_coordinator *c, hs_link link, bool inbound, const char *address,
                            uint64_t now_us);
/*
 * The same, of a connection whose other side has proved who it is. `names`: what it is proved to
 * be, up to a NULL. The link is dropped when HELLO states another name. NULL: nothing is proved.
 */
void hs_coordinator_link_up_as(hs_coordinator *c, hs_link link, bool inbound, const char *address,
                               const char *const *names, uint64_t now_us);
/*
 * A connection that is not to be up, since its other side has not proved who it is, but on which a
 * message can be sent: the other side is told the reason, the link is closed (HS_DO_SEND,
 * HS_DO_CLOSE), and a HS_DO_CONNECT has failed.
 */
void hs_coordinator_link_refused(hs_coordinator *c, hs_link link, bool inbound, const char *address,
                                 const char *reason, uint64_t now_us);
/* Also for a failed HS_DO_CONNECT: then link is 0, and address tells which one failed. */
void hs_coordinator_link_down(hs_coordinator *c, hs_link link, const char *address,
                              const char *reason, uint64_t now_us);
/*
 * The member that the connection that HS_DO_CONNECT asked for is to lead to; NULL when it is not
 * needed any more: then report link_down. Ask before another attempt, so that no limit of the
 * caller's own ends a run that may still wait: the run has its deadlines. The name is valid until
 * the next call on this coordinator.
 */
const char *hs_coordinator_wants(hs_coordinator *c, const char *address);
void hs_coordinator_bytes(hs_coordinator *c, hs_link link, const uint8_t *data, size_t size,
                          uint64_t now_us);
/* A call too early, or unasked, does no harm. */
void hs_coordinator_tick(hs_coordinator *c, uint64_t now_us);
/*
 * The machine answers, or has news. Takes `event`; NULL is ignored. An event that is not legal in
 * the state of the run (late, doubled, of an aborted run) is ignored, and counted in the status as
 * "ignored_events".
 */
void hs_coordinator_event(hs_coordinator *c, hs_event *event, uint64_t now_us);

/* Next thing to do; false when there is none. Call in a loop after each call above. */
bool hs_coordinator_next_action(hs_coordinator *c, hs_action *action);

/*
 * State for query-hotsnap: {"name","role":"none"|"initiator"|"peer","phase" (as in HS_SAY_PHASE, or
 * "idle"),"epoch","last_epoch","tag","initiator","reason","members":[{"name","address","state",
 * "done","total"}],"last":{"tag","epoch","role","phase","reason"},"ignored_events"}. Free with
 * hs_string_free. NULL when there is no memory for it.
 */
char *hs_coordinator_status_json(hs_coordinator *c);

#ifdef __cplusplus
}
#endif
#endif
