/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads of a run, and its lifetime.
 *
 *   worker   runs one task. The main loop joins it before it says that the
 *            task is done, so that the next step finds no task.
 *   stopper  lets go of guest memory in an abort. It is started by the
 *            iothread, which knows of the abort before the main loop does:
 *            the main loop may be waiting for storage, in a page that is not
 *            saved (parts/memory.c). It is a thread of its own because it
 *            takes as long as unprotecting memory does, and then removes
 *            files. Neither the stopper nor any thread that it waits for holds
 *            a lock of QEMU's.
 *   freer    joins threads and unmaps the staging buffer when a run is over.
 *            The next run's worker joins it, so that two snapshots never
 *            exist at a time.
 *
 * The stopper uses the run, so the thread that frees memory of the run has
 * joined the stopper before: the undo task, or the freer. By then no stopper
 * can be started any more: the caller of hotsnap_run_stop() does not know the
 * run.
 */
#include "qemu/osdep.h"
#include "bundle.h"
#include "folder.h"
#include "guard.h"
#include "lazy.h"
#include "parts/disks.h"
#include "parts/memory.h"
#include "parts/network.h"
#include "pause.h"
#include "qapi/error.h"
#include "qemu/rcu.h"
#include "qemu/thread.h"
#include "run.h"
#include "trace.h"

enum { DISKS, MEMORY, NETWORK };

static const HotsnapPart *const parts[HOTSNAP_PARTS] = {
    [DISKS] = &hotsnap_disks_part,
    [MEMORY] = &hotsnap_memory_part,
    [NETWORK] = &hotsnap_network_part,
};

typedef struct Snapshot {
    HotsnapRun base;
    HotsnapGuard guard;
    int iothread_tid;

    bool task_running;   /* main loop */
    QemuThread worker;
    hs_task task;
    char *manifest;
    char *task_error;
    void (*task_done)(void *opaque, hs_task task, const char *error);

    bool stopping;       /* see hotsnap_run_stop() */
    QemuThread stopper;
} Snapshot;

static Snapshot *snapshot_of(HotsnapRun *r)
{
    return container_of(r, Snapshot, base);
}

/* The thread that frees the former run. Main loop, and the next worker. */
static QemuThread freer;
static bool freer_started;

void hotsnap_run_join_free(void)
{
    if (freer_started) {
        qemu_thread_join(&freer);
        freer_started = false;
    }
}

static void *free_rest(void *opaque)
{
    Snapshot *s = opaque;

    if (s->stopping) {
        qemu_thread_join(&s->stopper);
    }
    for (int i = 0; i < HOTSNAP_PARTS; i++) {
        if (s->base.part[i] && parts[i]->free) {
            parts[i]->free(s->base.part[i]);
        }
    }
    hotsnap_priority_free(s->base.priority);
    qapi_free_HotsnapSnapshotOptions(s->base.options);
    g_free(s->base.cancel_reason);
    g_free(s->base.folder);
    g_free(s->base.tag);
    g_free(s->manifest);
    g_free(s->task_error);
    g_free(s);
    return NULL;
}

static void release(Snapshot *s)
{
    assert(!s->task_running);
    hotsnap_hold_end();
    hotsnap_priority_end(s->base.priority);
    hotsnap_pause_end(&s->base);
    for (int i = 0; i < HOTSNAP_PARTS; i++) {
        if (s->base.part[i] && parts[i]->release) {
            parts[i]->release(s->base.part[i]);
        }
    }
    hotsnap_guard_leave(&s->guard);
}

void hotsnap_run_free(HotsnapRun *r)
{
    Snapshot *s = snapshot_of(r);

    release(s);
    hotsnap_run_join_free(); /* if the prepare task did not come so far */
    freer_started = true;
    qemu_thread_create(&freer, "hotsnap/free", free_rest, s,
                       QEMU_THREAD_JOINABLE);
}

static bool takes_part(const HotsnapRun *r, const HotsnapPart *part)
{
    return (part->contents & BIT(hotsnap_run_content(r))) &&
           !(part->colors && hotsnap_run_is_barrier(r));
}

HotsnapRun *hotsnap_run_begin(const HotsnapRunPlace *place,
                              const char *directory, const char *tag,
                              HotsnapSnapshotOptions *options, Error **errp)
{
    Snapshot *s = g_new0(Snapshot, 1);
    HotsnapRun *r = &s->base;
    bool ok;

    r->ops = place->ops;
    r->opaque = place->opaque;
    r->main = place->main;
    r->network = place->network;
    r->member = place->member;
    r->options = options;
    r->tag = g_strdup(tag);
    r->folder = g_strdup_printf("%s/%s.partial/%s", directory, tag,
                                place->member);
    s->iothread_tid = place->iothread_tid;
    r->priority = hotsnap_priority_new();

    /* A load on demand forbids what a snapshot does, which waits for it. */
    hotsnap_lazy_lift_guard();
    ok = hotsnap_guard_check(errp);
    for (int i = 0; ok && i < HOTSNAP_PARTS; i++) {
        if (takes_part(r, parts[i])) {
            r->part[i] = parts[i]->begin(r, errp);
            ok = r->part[i];
        }
    }
    ok = ok && hotsnap_guard_enter(&s->guard,
                                   "A cluster snapshot is in progress", errp);
    hotsnap_lazy_put_up_guard();
    if (!ok) {
        release(s);
        free_rest(s);
        return NULL;
    }
    return r;
}

static bool goes_on(Snapshot *s, Error **errp)
{
    if (qatomic_read(&s->base.cancelled)) {
        error_setg(errp, "%s", qatomic_read(&s->base.cancel_reason));
        return false;
    }
    return true;
}

/* Calls one step of every part, in order, until an error or a cancel. */
#define EACH_PART(s, step, errp)                                       \
    ({                                                                 \
        bool ok_ = true;                                               \
        for (int i_ = 0; ok_ && i_ < HOTSNAP_PARTS; i_++) {            \
            ok_ = !(s)->base.part[i_] || !parts[i_]->step ||           \
                  (goes_on(s, errp) &&                                 \
                   parts[i_]->step((s)->base.part[i_], errp));         \
        }                                                              \
        ok_;                                                           \
    })

static bool prepare(Snapshot *s, Error **errp)
{
    hotsnap_run_join_free();
    return goes_on(s, errp) &&
           hotsnap_bundle_make_folder(s->base.folder, errp) &&
           EACH_PART(s, prepare, errp);
}

static bool undo(Snapshot *s, Error **errp)
{
    if (s->stopping) {
        qemu_thread_join(&s->stopper);
        s->stopping = false;
    }
    for (int i = HOTSNAP_PARTS - 1; i >= 0; i--) {
        if (s->base.part[i] && parts[i]->undo) {
            parts[i]->undo(s->base.part[i], s->base.cancel_reason ?: "");
        }
    }
    hotsnap_bundle_remove_folder(s->base.folder);
    return true;
}

static bool do_task(Snapshot *s, Error **errp)
{
    switch (s->task) {
    case HS_TASK_PREPARE:
        return prepare(s, errp);
    case HS_TASK_PRECOPY:
        return EACH_PART(s, precopy, errp);
    case HS_TASK_ARM:
        return EACH_PART(s, arm, errp);
    case HS_TASK_SETTLE:
        return EACH_PART(s, settle, errp);
    case HS_TASK_CHANNEL:
        /* All files of this member exist after that. */
        return EACH_PART(s, finish, errp) &&
               hotsnap_folder_sync(s->base.folder, errp);
    case HS_TASK_PUBLISH:
        return hotsnap_bundle_publish(s->base.folder, s->base.tag,
                                      s->manifest, errp);
    case HS_TASK_UNDO:
        return undo(s, errp);
    }
    g_assert_not_reached();
}

static void task_ended(void *opaque)
{
    Snapshot *s = opaque;
    g_autofree char *error = g_steal_pointer(&s->task_error);

    qemu_thread_join(&s->worker);
    s->task_running = false;
    if (s->task == HS_TASK_ARM && !error) {
        hotsnap_priority_armed(s->base.priority, s->iothread_tid,
                               s->base.part[MEMORY]);
    }
    s->task_done(s->base.opaque, s->task, error);
}

static void *work(void *opaque)
{
    Snapshot *s = opaque;
    Error *err = NULL;

    rcu_register_thread();
    if (!do_task(s, &err)) {
        /* After a cancel the task's own error is no news. */
        s->task_error = g_strdup(qatomic_read(&s->base.cancelled)
                                 ? qatomic_read(&s->base.cancel_reason)
                                 : error_get_pretty(err));
        error_free(err);
    }
    rcu_unregister_thread();
    hotsnap_queue_post(s->base.main, task_ended, s);
    return NULL;
}

void hotsnap_run_task(HotsnapRun *r, hs_task task, char *manifest,
                      void (*done)(void *opaque, hs_task task,
                                   const char *error))
{
    static const char *const names[] = {
        [HS_TASK_PREPARE] = "hotsnap/prepare",
        [HS_TASK_PRECOPY] = "hotsnap/precopy",
        [HS_TASK_ARM] = "hotsnap/arm",
        [HS_TASK_SETTLE] = "hotsnap/settle",
        [HS_TASK_CHANNEL] = "hotsnap/channel",
        [HS_TASK_PUBLISH] = "hotsnap/publish",
        [HS_TASK_UNDO] = "hotsnap/undo",
    };
    Snapshot *s = snapshot_of(r);

    assert(!s->task_running);
    trace_hotsnap_task(names[task]);
    s->task = task;
    s->task_done = done;
    s->manifest = manifest;
    s->task_running = true;
    if (task == HS_TASK_UNDO) {
        hotsnap_priority_end(s->base.priority);
    }
    qemu_thread_create(&s->worker, names[task], work, s,
                       QEMU_THREAD_JOINABLE);
}

/* The end of a cut: copying begins. @ok is its result, and is returned. */
static bool after_cut(Snapshot *s, bool ok)
{
    HotsnapRun *r = &s->base;
    Error *err = NULL;

    /* If they were stopped, no vCPU has run yet: each needs the BQL first. */
    hotsnap_priority_end(r->priority);
    if (ok && !EACH_PART(s, resume, &err)) {
        /* The cut is taken, but the snapshot fails. */
        r->ops->memory_done(r, error_get_pretty(err));
        error_free(err);
    } else if (ok && !r->part[MEMORY]) {
        r->ops->memory_done(r, NULL); /* none is to be copied */
    }
    return ok;
}

bool hotsnap_run_cut(HotsnapRun *r, Error **errp)
{
    Snapshot *s = snapshot_of(r);

    return goes_on(s, errp) &&
           after_cut(s, r->part[MEMORY] ? hotsnap_pause_and_cut(r, parts, errp)
                                        : hotsnap_hold_and_cut(r, parts, errp));
}

bool hotsnap_run_hold(HotsnapRun *r, uint64_t longest_us,
                      const HotsnapHoldOps *ops, void *opaque, Error **errp)
{
    return goes_on(snapshot_of(r), errp) &&
           hotsnap_hold_begin(&r->pause, longest_us, ops, opaque, errp);
}

bool hotsnap_run_switch(HotsnapRun *r, Error **errp)
{
    Snapshot *s = snapshot_of(r);

    if (!goes_on(s, errp)) {
        hotsnap_hold_end();
        return false;
    }
    return after_cut(s, hotsnap_cut_in_hold(r, parts, errp));
}

void hotsnap_run_go_on(HotsnapRun *r)
{
    hotsnap_pause_end(r);
}

QDict *hotsnap_run_report(HotsnapRun *r)
{
    QDict *json = qdict_new();

    for (int i = 0; i < HOTSNAP_PARTS; i++) {
        if (r->part[i] && parts[i]->report) {
            parts[i]->report(r->part[i], json);
        }
    }
    return json;
}

const hs_pause *hotsnap_run_late_pause(HotsnapRun *r)
{
    return hotsnap_run_mode(r) == HOTSNAP_MODE_STOP_AND_COPY ? &r->pause : NULL;
}

bool hotsnap_run_info(HotsnapRun *r, HotsnapSnapshotInfo *info)
{
    for (int i = 0; i < HOTSNAP_PARTS; i++) {
        if (r->part[i] && parts[i]->info) {
            parts[i]->info(r->part[i], info);
        }
    }
    info->content = hotsnap_run_content(r);
    info->has_mode = r->part[MEMORY];
    info->mode = hotsnap_run_mode(r);
    return info->engine || !r->part[MEMORY];
}

void hotsnap_run_progress(HotsnapRun *r, uint64_t *done, uint64_t *total,
                          uint64_t *expected_us)
{
    if (r->part[MEMORY]) {
        hotsnap_memory_progress(r->part[MEMORY], done, total, expected_us);
    }
}

void hotsnap_run_precopied(HotsnapRun *r, bool *converged, uint64_t *left)
{
    if (r->part[MEMORY]) {
        hotsnap_memory_precopied(r->part[MEMORY], converged, left);
    }
}

void hotsnap_run_set_finish(HotsnapRun *r, uint64_t finish_us)
{
    if (r->part[MEMORY]) {
        hotsnap_memory_set_finish(r->part[MEMORY], finish_us);
    }
}

bool hotsnap_run_set_bandwidth(HotsnapRun *r, uint64_t bandwidth)
{
    if (r->part[MEMORY]) {
        hotsnap_memory_set_bandwidth(r->part[MEMORY], bandwidth);
    }
    return r->part[MEMORY];
}

void hotsnap_run_undo(HotsnapRun *r)
{
    for (int i = HOTSNAP_PARTS - 1; i >= 0; i--) {
        if (r->part[i] && parts[i]->undo_main) {
            parts[i]->undo_main(r->part[i]);
        }
    }
}

static void *stop(void *opaque)
{
    HotsnapRun *r = opaque;

    for (int i = 0; i < HOTSNAP_PARTS; i++) {
        if (r->part[i] && parts[i]->stop) {
            parts[i]->stop(r->part[i], r->cancel_reason);
        }
    }
    return NULL;
}

void hotsnap_run_stop(HotsnapRun *r, const char *reason)
{
    Snapshot *s = snapshot_of(r);

    /* First, so that a task that fails for it knows the reason. */
    hotsnap_run_cancel(r, reason);
    if (!s->stopping) {
        s->stopping = true;
        qemu_thread_create(&s->stopper, "hotsnap/stop", stop, r,
                           QEMU_THREAD_JOINABLE);
    }
}
