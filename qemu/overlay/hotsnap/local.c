/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Locks. The main loop alone writes l->run, with stop_lock held, and reads it
 * without. The iothread reads it with stop_lock held. A thread that holds
 * stop_lock takes no other lock but the priorities', touches no guest memory,
 * and waits for nothing but the start of a thread. So the iothread never waits
 * for the main loop, whatever the BQL's owner is doing.
 *
 * An abort may meet the previous run while its end still waits in the main
 * loop's queue. That snapshot has finished; hs_snapshot_abort() does nothing
 * to it.
 */
#include "qemu/osdep.h"
#include "clock.h"
#include "hold.h"
#include "local.h"
#include "parts/forward.h"
#include "parts/nic_queue.h"
#include "qapi/clone-visitor.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-hotsnap.h"
#include "qapi/qobject-input-visitor.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "qobject/qjson.h"
#include "report.h"
#include "restore.h"
#include "run.h"
#include "trace.h"

#define BEAT_MS 250

struct HotsnapLocal {
    hs_member *logic;
    HotsnapNetwork *network;
    HotsnapQueue *main;
    const HotsnapLocalOps *ops;
    void *opaque;
    char *name;
    QEMUTimer *beat;
    bool stepping;           /* take_steps() is on the stack */
    bool closed;             /* the member goes: no work is taken */

    QemuMutex stop_lock;
    HotsnapRun *run;         /* NULL: no snapshot is on */
    HotsnapRestore *restore; /* NULL: nothing is being loaded */
    uint64_t epoch;
    HotsnapSnapshotInfo *last;
};

static void take_steps(HotsnapLocal *l);

/* Answers and news. */

static void task_done(void *opaque, hs_task task, const char *error)
{
    HotsnapLocal *l = opaque;
    bool converged = true;
    uint64_t left = 0;

    if (task == HS_TASK_PRECOPY && !error) {
        hotsnap_run_precopied(l->run, &converged, &left);
        hs_member_precopied(l->logic, converged, left);
    }
    hs_member_task_done(l->logic, task, error);
    take_steps(l);
}

typedef struct News {
    HotsnapLocal *local;
    void (*tell)(hs_member *logic, const char *error);
    char *error;
} News;

static void tell_news(void *opaque)
{
    News *news = opaque;

    news->tell(news->local->logic, news->error);
    take_steps(news->local);
    g_free(news->error);
    g_free(news);
}

/* Any thread. */
static void post_news(HotsnapLocal *l,
                      void (*tell)(hs_member *logic, const char *error),
                      const char *error)
{
    News *news = g_new0(News, 1);

    news->local = l;
    news->tell = tell;
    news->error = g_strdup(error);
    hotsnap_queue_post(l->main, tell_news, news);
}

/* Memory is copied, or will not be: a VM that stands may run. */
static void go_on(void *opaque)
{
    HotsnapLocal *l = opaque;

    if (l->run) {
        hotsnap_run_go_on(l->run);
    }
}

static void run_memory_copied(HotsnapRun *r)
{
    HotsnapLocal *l = r->opaque;

    hotsnap_queue_post(l->main, go_on, l);
}

static void run_memory_done(HotsnapRun *r, const char *error)
{
    run_memory_copied(r);
    post_news(r->opaque, hs_member_memory_done, error);
}

static void run_failed(HotsnapRun *r, Error *err)
{
    post_news(r->opaque, hs_member_failed, error_get_pretty(err));
    error_free(err);
}

static const HotsnapRunOps run_ops = {
    .memory_copied = run_memory_copied,
    .memory_done = run_memory_done,
    .failed = run_failed,
};

static void tell_red_frame(hs_member *logic, const char *error)
{
    hs_member_red_frame(logic);
}

/* Not at once: the frame came in the middle of a backend's read. */
static void network_red_frame(void *opaque)
{
    post_news(opaque, tell_red_frame, NULL);
}

static void tell_nothing(hs_member *logic, const char *error)
{
}

static void network_frame_received(void *opaque)
{
    HotsnapLocal *l = opaque;

    if (hs_member_frame_received(l->logic) && !l->stepping) {
        post_news(l, tell_nothing, NULL); /* steps are due, and not here */
    }
}

static bool network_busy(void *opaque)
{
    return hotsnap_local_busy(opaque);
}

static const HotsnapNetworkOps network_ops = {
    .red_frame = network_red_frame,
    .frame_received = network_frame_received,
    .busy = network_busy,
};

static void beat(void *opaque)
{
    HotsnapLocal *l = opaque;
    uint64_t done = 0, total = 0, expected_us = 0;

    if (l->run) {
        hotsnap_run_progress(l->run, &done, &total, &expected_us);
    }
    hotsnap_nic_queues_look(l->network); /* frames may have been dropped */
    hs_member_frame_received(l->logic);
    hs_member_beat(l->logic, done, total, expected_us);
    timer_mod(l->beat, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + BEAT_MS);
    take_steps(l);
}

/* Steps of a snapshot. */

static void set_run(HotsnapLocal *l, HotsnapRun *r)
{
    QEMU_LOCK_GUARD(&l->stop_lock);

    l->run = r;
}

/*
 * The coordinator's parser takes texts that QEMU's does not: with characters
 * that are not in Unicode, for one. Other members can send those. An option
 * that is not known here is refused, not left out.
 */
static Visitor *options_visitor(const char *json, Error **errp)
{
    QObject *object = qobject_from_json(json, errp);
    Visitor *v;

    if (!object) {
        error_prepend(errp, "QEMU cannot read what it was asked to do: ");
        return NULL;
    }
    v = qobject_input_visitor_new(object);
    qobject_unref(object);
    return v;
}

static HotsnapSnapshotOptions *options_from_json(const char *json,
                                                 Error **errp)
{
    Visitor *v = options_visitor(json, errp);
    HotsnapSnapshotOptions *options = NULL;

    if (v) {
        visit_type_HotsnapSnapshotOptions(v, NULL, &options, errp);
        visit_free(v);
    }
    return options;
}

static HotsnapRun *begin_snapshot(HotsnapLocal *l, const hs_step *step,
                                  Error **errp)
{
    HotsnapRunPlace place = {
        .ops = &run_ops,
        .opaque = l,
        .main = l->main,
        .network = l->network,
        .member = l->name,
        .iothread_tid = l->ops->iothread_tid(l->opaque),
    };
    HotsnapSnapshotOptions *options =
        options_from_json(step->u.begin_snapshot.options_json, errp);

    if (!options) {
        return NULL;
    }
    return hotsnap_run_begin(&place, step->u.begin_snapshot.directory,
                             step->u.begin_snapshot.tag, options, errp);
}

static void step_begin_snapshot(HotsnapLocal *l, const hs_step *step)
{
    Error *err = NULL;
    HotsnapRun *r = begin_snapshot(l, step, &err);

    if (r) {
        set_run(l, r);
        beat(l);
    }
    hs_member_begun(l->logic, err ? error_get_pretty(err) : NULL);
    error_free(err);
}

static char *manifest(HotsnapLocal *l)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    g_autofree char *created = g_date_time_format_iso8601(now);
    char *text = hs_member_manifest(l->logic, created);
    char *copy = g_strdup(text);

    hs_string_free(text);
    return copy;
}

static void step_task(HotsnapLocal *l, const hs_step *step)
{
    hs_task task = step->u.task;

    hotsnap_run_task(l->run, task,
                     task == HS_TASK_PUBLISH ? manifest(l) : NULL, task_done);
}

static void step_cut(HotsnapLocal *l, const hs_step *step)
{
    Error *err = NULL;

    if (hotsnap_run_cut(l->run, &err)) {
        hs_member_cut_done(l->logic, NULL, &l->run->pause);
    } else {
        hs_member_cut_done(l->logic, error_get_pretty(err), NULL);
        error_free(err);
    }
}

static void hold_ended(void *opaque, const char *reason)
{
    post_news(opaque, hs_member_hold_ended, reason);
}

static const HotsnapHoldOps hold_ops = {
    .ended = hold_ended,
};

static void step_hold(HotsnapLocal *l, const hs_step *step)
{
    Error *err = NULL;

    hotsnap_run_hold(l->run, step->u.longest_us, &hold_ops, l, &err);
    hs_member_held(l->logic, err ? error_get_pretty(err) : NULL);
    error_free(err);
}

static void step_switch(HotsnapLocal *l, const hs_step *step)
{
    Error *err = NULL;

    if (hotsnap_run_switch(l->run, &err)) {
        hs_member_switched(l->logic, NULL, &l->run->pause);
    } else {
        hs_member_switched(l->logic, error_get_pretty(err), NULL);
        error_free(err);
    }
}

static void step_release_requests(HotsnapLocal *l, const hs_step *step)
{
    hotsnap_hold_end();
}

static void step_pace(HotsnapLocal *l, const hs_step *step)
{
    hotsnap_run_set_finish(l->run, step->u.finish_us);
}

static void step_release(HotsnapLocal *l, const hs_step *step)
{
    hotsnap_forward_released(l->network);
}

static void step_report(HotsnapLocal *l, const hs_step *step)
{
    g_autoptr(QDict) json = hotsnap_run_report(l->run);
    g_autoptr(GString) text = NULL;

    hotsnap_report_host(json);
    text = qobject_to_json(QOBJECT(json));
    hs_member_report(l->logic, text->str, hotsnap_run_late_pause(l->run));
}

static void step_undo(HotsnapLocal *l, const hs_step *step)
{
    hotsnap_run_undo(l->run);
    hs_member_undone(l->logic, NULL);
}

static void step_event(HotsnapLocal *l, const hs_step *step)
{
    l->ops->event(l->opaque, step->u.event);
}

static HotsnapSnapshotInfo *run_info(HotsnapLocal *l)
{
    HotsnapSnapshotInfo *info = g_new0(HotsnapSnapshotInfo, 1);

    if (!hotsnap_run_info(l->run, info)) {
        qapi_free_HotsnapSnapshotInfo(info);
        return NULL;
    }
    info->tag = g_strdup(l->run->tag);
    info->epoch = l->epoch;
    hotsnap_report_pause_info(&l->run->pause, info);
    return info;
}

static void step_forget(HotsnapLocal *l, const hs_step *step)
{
    HotsnapRun *r = l->run;
    HotsnapSnapshotInfo *info = run_info(l);

    if (info) { /* the figures stay visible */
        qapi_free_HotsnapSnapshotInfo(l->last);
        l->last = info;
    }
    timer_del(l->beat);
    set_run(l, NULL);
    hotsnap_run_free(r);
}

/* Steps of a restore. */

static void loaded(void *opaque, Error *err)
{
    HotsnapLocal *l = opaque;

    hs_member_loaded(l->logic, err ? error_get_pretty(err) : NULL, NULL);
    error_free(err);
    take_steps(l);
}

static HotsnapRestoreOptions *restore_options_from_json(const char *json,
                                                        Error **errp)
{
    Visitor *v = options_visitor(json, errp);
    HotsnapRestoreOptions *options = NULL;

    if (v) {
        visit_type_HotsnapRestoreOptions(v, NULL, &options, errp);
        visit_free(v);
    }
    return options;
}

static void step_begin_load(HotsnapLocal *l, const hs_step *step)
{
    g_autoptr(HotsnapRestoreOptions) options = NULL;
    Error *err = NULL;

    options = restore_options_from_json(step->u.begin_load.options_json, &err);
    if (options) {
        l->restore = hotsnap_restore_begin(l->network, l->main,
                                           step->u.begin_load.bundle, l->name,
                                           options, loaded, l, &err);
    }
    if (!l->restore) {
        hs_member_loaded(l->logic, error_get_pretty(err), NULL);
        error_free(err);
    }
}

static void step_start(HotsnapLocal *l, const hs_step *step)
{
    g_autoptr(QDict) json = hotsnap_restore_start(l->restore);
    g_autoptr(GString) text = qobject_to_json(QOBJECT(json));

    l->restore = NULL;
    hs_member_started(l->logic, NULL, text->str);
}

static void step_stop(HotsnapLocal *l, const hs_step *step)
{
    hotsnap_restore_stop_vm();
}

static void step_end_load(HotsnapLocal *l, const hs_step *step)
{
    g_clear_pointer(&l->restore, hotsnap_restore_end);
}

static void (*const steps[])(HotsnapLocal *l, const hs_step *step) = {
    [HS_STEP_BEGIN_SNAPSHOT] = step_begin_snapshot,
    [HS_STEP_TASK] = step_task,
    [HS_STEP_CUT] = step_cut,
    [HS_STEP_PACE] = step_pace,
    [HS_STEP_RELEASE] = step_release,
    [HS_STEP_REPORT] = step_report,
    [HS_STEP_UNDO] = step_undo,
    [HS_STEP_EVENT] = step_event,
    [HS_STEP_FORGET] = step_forget,
    [HS_STEP_BEGIN_LOAD] = step_begin_load,
    [HS_STEP_START] = step_start,
    [HS_STEP_STOP] = step_stop,
    [HS_STEP_END_LOAD] = step_end_load,
    [HS_STEP_HOLD] = step_hold,
    [HS_STEP_SWITCH] = step_switch,
    [HS_STEP_RELEASE_REQUESTS] = step_release_requests,
};

/*
 * Not inside a step: draining disks polls the main loop's AioContext in the
 * middle of the pause. Steps that become due then are taken after it.
 */
static void take_steps(HotsnapLocal *l)
{
    hs_step step;

    if (l->stepping) {
        return;
    }
    l->stepping = true;
    while (hs_member_next_step(l->logic, &step)) {
        trace_hotsnap_step(step.kind, hs_member_state_name(l->logic));
        steps[step.kind](l, &step);
    }
    l->stepping = false;
}

/* Work from the coordinator. */

static void stop_run(HotsnapLocal *l, const char *reason)
{
    QEMU_LOCK_GUARD(&l->stop_lock);

    if (l->run) {
        hotsnap_run_stop(l->run, reason);
    }
}

/* The main loop may wait for a vCPU that has the BQL and no processor. */
static void prepare_cut(HotsnapLocal *l)
{
    QEMU_LOCK_GUARD(&l->stop_lock);

    if (l->run) {
        hotsnap_priority_cut_is_due(l->run->priority);
    }
}

typedef struct WorkCall {
    HotsnapLocal *local;
    hs_work *work;
} WorkCall;

static void take_work(void *opaque)
{
    g_autofree WorkCall *call = opaque;
    HotsnapLocal *l = call->local;
    const char *abort_reason = hs_work_abort_reason(call->work);

    if (l->closed) {
        hs_work_free(call->work);
        return;
    }
    if (abort_reason) {
        stop_run(l, abort_reason); /* of a run that has begun since */
        go_on(l);
    }
    hs_member_work(l->logic, call->work);
    take_steps(l);
}

void hotsnap_local_work(HotsnapLocal *l, hs_work *work)
{
    const char *abort_reason = hs_work_abort_reason(work);
    WorkCall *call = g_new0(WorkCall, 1);

    trace_hotsnap_work(hs_work_name(work));
    if (abort_reason) {
        /* At once: the main loop may wait for memory that this releases. */
        stop_run(l, abort_reason);
    }
    if (hs_work_is_cut(work)) {
        prepare_cut(l);
    }
    call->local = l;
    call->work = work;
    hotsnap_queue_post(l->main, take_work, call);
}

/* For commands. */

bool hotsnap_local_busy(HotsnapLocal *l)
{
    return hs_member_busy(l->logic) || hotsnap_restore_loading();
}

bool hotsnap_local_saving(HotsnapLocal *l)
{
    return l->run;
}

void hotsnap_local_fail(HotsnapLocal *l, const char *reason)
{
    hs_member_failed(l->logic, reason);
    take_steps(l);
}

HotsnapSnapshotInfo *hotsnap_local_info(HotsnapLocal *l)
{
    HotsnapSnapshotInfo *info = l->run ? run_info(l) : NULL;

    if (!info && !l->run && l->last) {
        info = QAPI_CLONE(HotsnapSnapshotInfo, l->last);
    }
    return info;
}

void hotsnap_local_set_epoch(HotsnapLocal *l, uint64_t epoch)
{
    l->epoch = epoch;
}

bool hotsnap_local_set_bandwidth(HotsnapLocal *l, uint64_t bandwidth)
{
    return l->run && hotsnap_run_set_bandwidth(l->run, bandwidth);
}

HotsnapLocal *hotsnap_local_new(const char *name, HotsnapNetwork *network,
                                HotsnapQueue *main, const HotsnapLocalOps *ops,
                                void *opaque, Error **errp)
{
    HotsnapLocal *l = g_new0(HotsnapLocal, 1);
    g_autofree char *boot_id = hotsnap_report_boot_id();
    char *error = NULL;

    qemu_mutex_init(&l->stop_lock);
    l->name = g_strdup(name);
    l->network = network;
    l->main = main;
    l->ops = ops;
    l->opaque = opaque;
    l->beat = timer_new_ms(QEMU_CLOCK_REALTIME, beat, l);
    l->logic = hs_member_new(name, network->mediator, boot_id, &error);
    if (!l->logic) {
        error_setg(errp, "%s", error);
        hs_string_free(error);
        hotsnap_local_free(l);
        return NULL;
    }
    hotsnap_network_set_ops(network, &network_ops, l);
    return l;
}

void hotsnap_local_close(HotsnapLocal *l)
{
    l->closed = true;
}

void hotsnap_local_free(HotsnapLocal *l)
{
    if (!l) {
        return;
    }
    hotsnap_run_join_free();
    timer_free(l->beat);
    hs_member_free(l->logic);
    qapi_free_HotsnapSnapshotInfo(l->last);
    qemu_mutex_destroy(&l->stop_lock);
    g_free(l->name);
    g_free(l);
}
