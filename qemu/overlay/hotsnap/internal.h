/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * HotSnap's glue inside QEMU. The logic lives in two libraries
 * (hotsnap/snapshot.h, hotsnap/coordinator.h, hotsnap/mediator.h); what is
 * here owns sockets, threads, disks and the pause.
 *
 * Threads
 *   main loop    under the BQL: the mediator, the epoch, disks, the pause,
 *                commands. All fields are "main loop" unless marked.
 *   iothread     the member's own, for the coordinator and its sockets, so
 *                that a busy main loop delays no message. Nothing else
 *                touches them; others post to it with hotsnap_local().
 *   worker       at most one at a time in an epoch ("task"), for what blocks:
 *                without the BQL. It reaches the block layer only through
 *                hotsnap_call_main(), and reports with hotsnap_local().
 *   stopper      in an abort, beside a task: releases the memory (undo.c).
 */
#ifndef HOTSNAP_INTERNAL_H
#define HOTSNAP_INTERNAL_H

#include "block/aio.h"
#include "block/block.h"
#include "io/net-listener.h"
#include "net/filter.h"
#include "qapi/qapi-types-hotsnap.h"
#include "qemu/sockets.h"
#include "qemu/thread.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "qom/object.h"
#include "system/hotsnap.h"
#include "system/iothread.h"

#include <hotsnap/coordinator.h>
#include <hotsnap/mediator.h>
#include <hotsnap/snapshot.h>

#define TYPE_HOTSNAP_MEMBER "hotsnap-member"
#define TYPE_FILTER_HOTSNAP "filter-hotsnap"
OBJECT_DECLARE_SIMPLE_TYPE(HotsnapMember, HOTSNAP_MEMBER)
OBJECT_DECLARE_SIMPLE_TYPE(FilterHotsnap, FILTER_HOTSNAP)

/* One writable disk of the VM, in one epoch. */
typedef struct HotsnapDisk {
    char *device;           /* what the user calls it */
    char *name;             /* of the base's file, as it was opened */
    char *file;             /* the same, absolute */
    char *format;
    char *overlay_file;
    BlockDriverState *base; /* referenced; becomes read-only */
    BlockDriverState *overlay; /* referenced */
    Error *blocker;         /* of commands that would change it */
    int64_t sectors;
    bool attached;          /* as it was seen when preparing */
    BdrvChild *keeper;      /* keeps the base's file open for writing */
    bool created;           /* overlay_file exists because of us */
    bool switched;
    uint64_t sums_xxh3;
} HotsnapDisk;

#define HOTSNAP_PAUSE_STEPS 12

typedef struct HotsnapPause {
    int64_t begin_ns, end_ns; /* CLOCK_MONOTONIC */
    unsigned count;
    struct {
        const char *name;
        uint64_t us;
    } step[HOTSNAP_PAUSE_STEPS];
} HotsnapPause;

typedef struct HotsnapConnect HotsnapConnect;

/* The local part of one cluster snapshot. */
typedef struct HotsnapEpoch {
    HotsnapMember *member;
    char *tag;
    char *folder;          /* DIRECTORY/TAG.partial/MEMBER */
    uint64_t number;
    HotsnapEngine engine;
    uint64_t bandwidth;
    bool coloring;
    bool dump;
    uint32_t open_traps;   /* HS_OPEN_TRAP_...: for tests */
    char *overlay_directory;

    GArray *disks;         /* of HotsnapDisk */
    hs_snapshot *snapshot; /* written with stop_lock held: undo.c */
    Error *migration_blocker;
    bool discard_disabled;
    bool armed;            /* memory is protected: the cut may be taken */
    GArray *raised;        /* threads with real-time priority until the cut */
    bool cut_done;
    const char *cut_cause;
    HotsnapPause pause;
    GByteArray *tail;      /* device state, taken in the pause */
    bool writing_channel;  /* the task reads the mediator's record */
    uint64_t pcap_xxh3, vnet_xxh3; /* of the channel's files, by the task */
    char *manifest;        /* to be published */
    bool channels_closed;
    bool expecting;        /* hs_mediator_expect was called */
    QemuEvent channels_event;
    QemuEvent memory_event;
    char *memory_error;    /* set before memory_event */
    QemuEvent made_event;  /* not while a task makes the snapshot */
    hs_snapshot *made;     /* by it, before made_event; made_lock */
    QemuMutex made_lock;   /* held while `made` is aborted: undo.c */
    bool memory_done;      /* guest memory is used no more, atomic */

    QEMUTimer *progress_timer;

    bool task_running;
    QemuThread task;
    bool aborting;
    bool cancelled;        /* atomic: failed, or aborting; tasks poll it */
    char *abort_reason;
    /* undo.c; the first three with stop_lock held */
    bool stopping;
    hs_snapshot *snapshot_to_stop;
    char *stop_reason;
    QemuThread stopper;
    hs_snapshot *doomed;   /* the undo task's */
    bool undone;
} HotsnapEpoch;

struct HotsnapMember {
    Object parent_obj;

    char *name;
    char *listen;

    IOThread *iothread;
    AioContext *ctx;
    GMainContext *gctx;
    /* iothread only */
    QIONetListener *listener;
    hs_coordinator *coordinator;
    GHashTable *links;     /* hs_link -> HotsnapLink */
    hs_link next_link;
    QLIST_HEAD(, HotsnapConnect) connects; /* connect.c */
    QEMUTimer *timer;
    bool draining;         /* hotsnap_dispatch() is on the stack */
    QEMUTimer *watch;      /* standstill.c */
    unsigned watch_beats, watch_missed;

    unsigned beats;        /* of the main loop, atomic */

    QemuMutex main_lock;   /* protects main_queue */
    GQueue main_queue;     /* work for the main loop, one at a time */
    bool main_busy;

    hs_mediator *mediator;
    bool table_installed;  /* the mediator has something to do */
    QTAILQ_HEAD(, FilterHotsnap) filters;
    QemuMutex stop_lock;   /* undo.c */
    HotsnapEpoch *epoch;   /* written with stop_lock held */
    QemuThread freer;      /* frees the epoch before */
    bool freer_started;
    bool restoring;        /* until START is done: frames wait */
    bool restored;         /* from START on, until COMMIT or ABORT */
    hs_playback *playback; /* the channel, from LOAD to START */
    char *restore_folder;
    QEMUTimer *load_timer; /* while the state is being loaded */
    bool mapped_ram_before; /* settings to be restored then */
    int autostart_before;

    /* for query-hotsnap and the job */
    HotsnapPhase phase;
    char *role;
    char *tag;
    uint64_t epoch_number;
    char *error;
    HotsnapSnapshotInfo *last;
    struct HotsnapJob *job;
    char *job_partial;     /* TAG.partial made for the job */
};

struct FilterHotsnap {
    NetFilterState parent_obj;

    char *member_id;
    HotsnapMember *member;
    uint32_t nic;
    bool nic_added;
    NetQueue *restore_queue; /* frames to the guest until playback is done */
    GQueue undelivered[2];   /* sizes of frames in QEMU's queues, by to_guest */
    size_t undelivered_bytes;
    QTAILQ_ENTRY(FilterHotsnap) next_filter;
};

/* member.c */
HotsnapMember *hotsnap_member(Error **errp);
int64_t hotsnap_now_ns(void);
uint64_t hotsnap_now_us(void);

/* links.c; iothread */
bool hotsnap_links_listen(HotsnapMember *m, Error **errp);
void hotsnap_links_close(HotsnapMember *m);
void hotsnap_link_send(HotsnapMember *m, hs_link link, const uint8_t *data,
                       size_t size);
void hotsnap_link_close(HotsnapMember *m, hs_link link);
/* @address: that we connected to, or NULL */
void hotsnap_link_new(HotsnapMember *m, QIOChannelSocket *ioc,
                      const char *address);

/* connect.c; iothread, but for the first two */
SocketAddress *hotsnap_address_parse(const char *str, Error **errp);
void hotsnap_unix_sockaddr(const char *path, struct sockaddr_un *un);
void hotsnap_link_connect(HotsnapMember *m, const char *address);
void hotsnap_connects_end(HotsnapMember *m);

/* dispatch.c */
void hotsnap_dispatch(HotsnapMember *m); /* iothread */
/* Reports local progress to the coordinator; any thread. Takes @json. */
void hotsnap_local(HotsnapMember *m, hs_local_kind kind, QDict *json);
void hotsnap_local_failed(HotsnapMember *m, Error *err); /* frees @err */
/* Runs @fn in the main loop, after all that was posted before; any thread. */
void hotsnap_post_main(HotsnapMember *m, void (*fn)(void *opaque),
                       void *opaque);
/* The same, and waits for it; worker only. */
void hotsnap_call_main(HotsnapMember *m, void (*fn)(void *opaque),
                       void *opaque);

/* epoch.c */
void hotsnap_epoch_prepare(HotsnapMember *m, QDict *request);
void hotsnap_epoch_install(HotsnapMember *m, QDict *table);
void hotsnap_epoch_arm(HotsnapMember *m);
void hotsnap_epoch_cut(HotsnapMember *m, const char *cause);
void hotsnap_cut_soon(HotsnapMember *m); /* a red frame forces the cut */
void hotsnap_epoch_expect(HotsnapMember *m, QDict *expected);
void hotsnap_epoch_close_channels(HotsnapMember *m);
void hotsnap_epoch_end_coloring(HotsnapMember *m);
void hotsnap_epoch_commit(HotsnapMember *m);
void hotsnap_epoch_abort(HotsnapMember *m, const char *reason);
/* Called when a frame arrived, to see whether channels are complete. */
void hotsnap_epoch_check_channels(HotsnapMember *m);
void hotsnap_epoch_run(HotsnapEpoch *e, const char *name,
                       void *(*fn)(void *opaque));
/*
 * What goes wrong in a task because its epoch is being aborted, or beside
 * that, is no news: the reason is known. Worker, before task_done.
 */
void hotsnap_epoch_drop_if_aborting(HotsnapEpoch *e, Error **err);
void hotsnap_epoch_task_done(HotsnapEpoch *e); /* worker's last call */

/* undo.c */
/* Iothread or main loop: the memory is released soon, whoever is stuck. */
void hotsnap_stop_memory(HotsnapMember *m, const char *reason);
void hotsnap_join_stopper(HotsnapEpoch *e);
void hotsnap_set_snapshot(HotsnapEpoch *e, hs_snapshot *s);
void hotsnap_undo_begin(HotsnapEpoch *e);

/* standstill.c; iothread, but for the beat */
void hotsnap_standstill_init(HotsnapMember *m);
/* Main loop, while copies run. */
void hotsnap_standstill_beat(HotsnapMember *m);
void hotsnap_standstill_local(HotsnapMember *m, hs_local_kind kind);
void hotsnap_standstill_end(HotsnapMember *m);

/* finish.c */
void *hotsnap_finish_task(void *opaque); /* worker: the full snapshot */
void hotsnap_publish(HotsnapMember *m, QDict *manifest);

/* guard.c: what a snapshot refuses, and what it forbids while it runs */
bool hotsnap_guard_check(HotsnapMember *m, Error **errp);
bool hotsnap_guard_enter(HotsnapEpoch *e, Error **errp);
void hotsnap_guard_leave(HotsnapEpoch *e);

/* watch.c: guest memory that vanishes during a snapshot ends it */
void hotsnap_memory_watch(HotsnapEpoch *e);
void hotsnap_memory_unwatch(void);
bool hotsnap_memory_is_the_same(Error **errp); /* as when it was prepared */

/* shutdown.c: QEMU's end is a snapshot's end */
bool hotsnap_shutting_down(void);

/* disks.c */
bool hotsnap_disks_prepare(HotsnapEpoch *e, Error **errp);
bool hotsnap_disks_flush(HotsnapEpoch *e, Error **errp); /* worker */
bool hotsnap_disks_switch(HotsnapEpoch *e, Error **errp); /* in the pause */
bool hotsnap_disks_settle(HotsnapEpoch *e, Error **errp); /* after it */
void hotsnap_disks_undo(HotsnapEpoch *e);
bool hotsnap_disks_undoing(void); /* of whatever epoch */
void hotsnap_disks_free(HotsnapEpoch *e);

/* pause.c */
bool hotsnap_pause_and_cut(HotsnapEpoch *e, Error **errp);

/* dma.c: engine kvm */
int hotsnap_kvm_vm_fd(void); /* -1: not under KVM */
/* In the pause, after the cut, under the BQL. */
void hotsnap_dma_arm(hs_snapshot *s);
/* Any thread, any time, again; before hs_snapshot_free(). */
void hotsnap_dma_disarm(void);

/* priority.c; @raised is an array of thread ids */
void hotsnap_priority_raise_loops(HotsnapMember *m, GArray *raised);
void hotsnap_priority_raise_vcpus(GArray *raised);
void hotsnap_priority_lower(GArray *raised);

/* vmstate.c */
/* What the library is told of the VM. */
typedef struct HotsnapMemoryPlan {
    hs_snapshot_options options;
    GByteArray *head;
    GArray *blocks, *tids;
    char *image, *sums;
} HotsnapMemoryPlan;

bool hotsnap_vmstate_plan(HotsnapEpoch *e, HotsnapMemoryPlan *plan,
                          Error **errp);
hs_snapshot *hotsnap_vmstate_new_snapshot(HotsnapMemoryPlan *plan,
                                          Error **errp); /* worker */
void hotsnap_vmstate_plan_clear(HotsnapMemoryPlan *plan);
bool hotsnap_vmstate_save_devices(HotsnapEpoch *e, Error **errp);

/* filter.c */
void hotsnap_filters_identify(HotsnapMember *m);
void hotsnap_filters_release(HotsnapMember *m);
FilterHotsnap *hotsnap_filter_for_netdev(HotsnapMember *m,
                                         NetClientState *netdev);
/* Can all recorded frames be played back here? */
bool hotsnap_filters_check(HotsnapMember *m, const char *pcap,
                           const char *vnet, Error **errp);
size_t hotsnap_filters_play(HotsnapMember *m, hs_playback *p);
void hotsnap_filters_end_restore(HotsnapMember *m);

/* forward.c */
/* Sends a frame on its way as if it had just passed the filter. */
void hotsnap_forward(FilterHotsnap *f, NetClientState *sender, unsigned flags,
                     const struct iovec *iov, int iovcnt);
void hotsnap_forward_frame(FilterHotsnap *f, const hs_frame *frame);
/* The same once restore_queue, whose deliverer the next is, is flushed. */
ssize_t hotsnap_forward_later(FilterHotsnap *f, NetClientState *sender,
                              unsigned flags, const struct iovec *iov,
                              int iovcnt);
ssize_t hotsnap_forward_waiting(NetClientState *sender, unsigned flags,
                                const struct iovec *iov, int iovcnt,
                                void *opaque);
void hotsnap_forward_end(FilterHotsnap *f);

/* restore.c */
void hotsnap_restore_load(HotsnapMember *m, QDict *request);
void hotsnap_restore_start(HotsnapMember *m);
void hotsnap_restore_commit(HotsnapMember *m);
void hotsnap_restore_abort(HotsnapMember *m);

/* report.c */
QDict *hotsnap_report_member(HotsnapEpoch *e);
QDict *hotsnap_report_pause(HotsnapPause *pause);
QDict *hotsnap_report_host(HotsnapMember *m);

/* query.c */
void hotsnap_query_update(HotsnapEpoch *e);

/* commands.c */
void hotsnap_job_progress(HotsnapMember *m, uint64_t done, uint64_t total);
void hotsnap_job_finished(HotsnapMember *m, bool failed, const char *text);

#endif
