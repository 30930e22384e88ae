/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The local part of one cluster snapshot, step by step as the coordinator
 * asks for it. All of it runs in the main loop; what blocks is a task of the
 * worker thread.
 *
 * Life of a HotsnapEpoch: made by PREPARE, freed by COMMIT or at the end of
 * an ABORT (undo.c), which waits for the task that may run. The worker uses
 * it only between hotsnap_epoch_run() and hotsnap_epoch_task_done(). A task
 * calls the latter before it reports, so that what follows from its report
 * finds no task running: the main loop's queue keeps that order.
 */
#include "qemu/osdep.h"
#include "internal.h"
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "qobject/qjson.h"
#include "trace.h"

#define ARM_MAX_US (10 * 1000 * 1000)
#define PROGRESS_MS 250

/*
 * The rest needs no lock of QEMU's, and takes time: threads are joined, and
 * the staging buffer is unmapped.
 */
static void *epoch_free_rest(void *opaque)
{
    HotsnapEpoch *e = opaque;

    hotsnap_join_stopper(e);
    hs_snapshot_free(e->snapshot);
    if (e->tail) {
        g_byte_array_unref(e->tail);
    }
    qemu_event_destroy(&e->channels_event);
    qemu_event_destroy(&e->memory_event);
    qemu_event_destroy(&e->made_event);
    qemu_mutex_destroy(&e->made_lock);
    g_free(e->memory_error);
    g_free(e->abort_reason);
    g_free(e->stop_reason);
    g_free(e->manifest);
    g_free(e->overlay_directory);
    g_free(e->folder);
    g_free(e->tag);
    g_free(e);
    return NULL;
}

/* Of the epoch before, so that two snapshots never exist at a time. */
static void epoch_join_freer(HotsnapMember *m)
{
    if (m->freer_started) {
        qemu_thread_join(&m->freer);
        m->freer_started = false;
    }
}

/* By now the snapshot has finished, or is gone: memory is only memory. */
static void epoch_free(HotsnapEpoch *e)
{
    HotsnapMember *m = e->member;

    assert(!e->task_running);
    hotsnap_query_update(e);
    hotsnap_priority_lower(e->raised);
    g_array_unref(e->raised);
    timer_free(e->progress_timer);
    hotsnap_guard_leave(e);
    hotsnap_dma_disarm();
    hotsnap_disks_free(e);
    WITH_QEMU_LOCK_GUARD(&m->stop_lock) {
        m->epoch = NULL;
    }
    epoch_join_freer(m); /* if the prepare task did not come so far */
    m->freer_started = true;
    qemu_thread_create(&m->freer, "hotsnap/free", epoch_free_rest, e,
                       QEMU_THREAD_JOINABLE);
}

void hotsnap_epoch_run(HotsnapEpoch *e, const char *name,
                       void *(*fn)(void *opaque))
{
    assert(!e->task_running);
    trace_hotsnap_task(name);
    e->task_running = true;
    qemu_thread_create(&e->task, name, fn, e, QEMU_THREAD_JOINABLE);
}

static void epoch_finish_abort(HotsnapEpoch *e)
{
    HotsnapMember *m = e->member;

    hs_mediator_reset(m->mediator);
    hotsnap_filters_release(m);
    hotsnap_disks_undo(e);
    epoch_free(e);
    hotsnap_local(m, HS_LOCAL_ABORTED, NULL);
}

static void epoch_task_done(void *opaque)
{
    HotsnapEpoch *e = opaque;

    qemu_thread_join(&e->task);
    e->task_running = false;
    if (e->undone) {
        epoch_finish_abort(e);
    } else if (e->aborting) {
        hotsnap_undo_begin(e);
    } else if (e->armed && !e->cut_done) {
        hotsnap_priority_raise_loops(e->member, e->raised);
        if (hs_mediator_armed(e->member->mediator)) {
            hotsnap_cut_soon(e->member);
        }
    }
}

void hotsnap_epoch_drop_if_aborting(HotsnapEpoch *e, Error **err)
{
    if (qatomic_read(&e->cancelled) && *err) {
        error_free(*err);
        *err = NULL;
    }
}

void hotsnap_epoch_task_done(HotsnapEpoch *e)
{
    hotsnap_post_main(e->member, epoch_task_done, e);
}

/* PREPARE: everything slow or fallible, while the VM runs. */

typedef struct PrepareCall {
    HotsnapEpoch *e;
    HotsnapMemoryPlan plan;
    hs_snapshot *snapshot;
    Error *err;
} PrepareCall;

static void prepare_in_main(void *opaque)
{
    PrepareCall *call = opaque;
    HotsnapEpoch *e = call->e;

    if (e->aborting) {
        error_setg(&call->err, "%s", e->abort_reason);
        return;
    }
    if (g_mkdir_with_parents(e->folder, 0700) < 0) {
        error_setg_errno(&call->err, errno, "Cannot create folder '%s', which "
                         "all members must be able to write to", e->folder);
        return;
    }
    hotsnap_disks_prepare(e, &call->err);
}

static void plan_in_main(void *opaque)
{
    PrepareCall *call = opaque;

    qemu_event_reset(&call->e->made_event);
    hotsnap_vmstate_plan(call->e, &call->plan, &call->err);
}

static void adopt_in_main(void *opaque)
{
    PrepareCall *call = opaque;

    /* Also in an abort, which undoes what the epoch has. */
    hotsnap_set_snapshot(call->e, call->snapshot);
}

static void prepare_memory(PrepareCall *call)
{
    HotsnapMember *m = call->e->member;

    hotsnap_call_main(m, plan_in_main, call);
    if (!call->err) {
        epoch_join_freer(m);
        call->snapshot = hotsnap_vmstate_new_snapshot(&call->plan,
                                                      &call->err);
        call->e->made = call->snapshot;
    }
    qemu_event_set(&call->e->made_event);
    if (call->snapshot) {
        hotsnap_call_main(m, adopt_in_main, call);
    }
    hotsnap_vmstate_plan_clear(&call->plan);
}

static void *prepare_task(void *opaque)
{
    HotsnapEpoch *e = opaque;
    HotsnapMember *m = e->member;
    PrepareCall call = { .e = e };

    rcu_register_thread();
    hotsnap_call_main(m, prepare_in_main, &call);
    if (!call.err && hotsnap_disks_flush(e, &call.err)) {
        prepare_memory(&call);
    }
    rcu_unregister_thread();
    hotsnap_epoch_drop_if_aborting(e, &call.err);
    hotsnap_epoch_task_done(e);
    if (call.err) {
        hotsnap_local_failed(m, call.err);
    } else {
        hotsnap_local(m, HS_LOCAL_PREPARED, hotsnap_report_host(m));
    }
    return NULL;
}

static uint32_t open_traps(const char *trap)
{
    static const uint32_t bits[HOTSNAP_TRAP__MAX] = {
        [HOTSNAP_TRAP_GUEST] = HS_OPEN_TRAP_GUEST,
        [HOTSNAP_TRAP_KVM] = HS_OPEN_TRAP_KVM,
        [HOTSNAP_TRAP_DMA] = HS_OPEN_TRAP_DMA,
    };
    int i = qapi_enum_parse(&HotsnapTrap_lookup, trap, -1, NULL);

    return i < 0 ? 0 : bits[i];
}

void hotsnap_epoch_prepare(HotsnapMember *m, QDict *request)
{
    QDict *options = qdict_get_qdict(request, "options");
    const char *tag = qdict_get_try_str(request, "tag");
    const char *directory = qdict_get_try_str(request, "directory");
    HotsnapEpoch *e;
    Error *err = NULL;

    if (!hotsnap_guard_check(m, &err)) {
        hotsnap_local_failed(m, err);
        return;
    }
    e = g_new0(HotsnapEpoch, 1);
    e->member = m;
    e->tag = g_strdup(tag);
    e->folder = g_strdup_printf("%s/%s.partial/%s", directory, tag, m->name);
    e->coloring = qdict_get_try_bool(request, "coloring", true);
    e->disks = g_array_new(false, true, sizeof(HotsnapDisk));
    e->raised = g_array_new(false, false, sizeof(int));
    qemu_event_init(&e->channels_event, false);
    qemu_event_init(&e->memory_event, false);
    qemu_event_init(&e->made_event, true);
    qemu_mutex_init(&e->made_lock);
    WITH_QEMU_LOCK_GUARD(&m->stop_lock) {
        m->epoch = e;
    }
    if (options) {
        e->engine = qapi_enum_parse(&HotsnapEngine_lookup,
                                    qdict_get_try_str(options, "engine"),
                                    HOTSNAP_ENGINE_AUTO, NULL);
        e->bandwidth = qdict_get_try_int(options, "bandwidth", 0);
        e->dump = qdict_get_try_bool(options, "dump", false);
        e->open_traps = open_traps(qdict_get_try_str(options, "open-trap"));
        e->overlay_directory =
            g_strdup(qdict_get_try_str(options, "overlay-directory"));
    }
    if (e->overlay_directory && !g_path_is_absolute(e->overlay_directory)) {
        error_setg(&err, "Overlay directory '%s' is not an absolute path",
                   e->overlay_directory);
    }
    if (err || !hotsnap_guard_enter(e, &err)) {
        hotsnap_local_failed(m, err);
        return;
    }
    hotsnap_filters_identify(m);
    hotsnap_epoch_run(e, "hotsnap/prepare", prepare_task);
}

/* INSTALL: every member learns every MAC before anyone sends a color. */
void hotsnap_epoch_install(HotsnapMember *m, QDict *table)
{
    HotsnapEpoch *e = m->epoch;
    QList *members = qdict_get_qlist(table, "members");
    g_autoptr(GString) json = NULL;
    Error *err = NULL;
    char *error = NULL;

    if (!e || e->aborting) {
        return;
    }
    e->number = qdict_get_try_int(table, "epoch", 0);
    json = qobject_to_json(QOBJECT(members));
    if (!hs_mediator_prepare(m->mediator, e->number, m->name, json->str,
                             e->coloring, &error)) {
        error_setg(&err, "%s", error);
        hs_string_free(error);
        hotsnap_local_failed(m, err);
        return;
    }
    m->table_installed = true;
    hotsnap_local(m, HS_LOCAL_INSTALLED, NULL);
}

/* ARM: protect memory while the VM runs. */

static void *arm_task(void *opaque)
{
    HotsnapEpoch *e = opaque;
    HotsnapMember *m = e->member;
    Error *err = NULL;
    char *error = NULL;

    rcu_register_thread();
    /* Again: a guest's own flush must find little to do in the pause. */
    if (hotsnap_disks_flush(e, &err)) {
        if (!hs_snapshot_arm(e->snapshot, ARM_MAX_US, &error)) {
            error_setg(&err, "%s", error);
            hs_string_free(error);
        }
    }
    rcu_unregister_thread();
    hotsnap_epoch_drop_if_aborting(e, &err);
    hotsnap_epoch_task_done(e);
    if (err) {
        hotsnap_local_failed(m, err);
    } else {
        hotsnap_local(m, HS_LOCAL_ARMED, NULL);
    }
    return NULL;
}

void hotsnap_epoch_arm(HotsnapMember *m)
{
    HotsnapEpoch *e = m->epoch;

    if (!e || e->aborting) {
        return;
    }
    /*
     * Red frames come only after every member said ARMED, that is, after
     * this task ended: a cut never runs beside it.
     */
    e->armed = true;
    hs_mediator_start_coloring(m->mediator);
    hotsnap_epoch_run(e, "hotsnap/arm", arm_task);
}

/* The other members must hear of us while the background copy runs. */
static void epoch_progress(void *opaque)
{
    HotsnapEpoch *e = opaque;
    hs_snapshot_stats s = { .struct_size = sizeof(s) };
    QDict *json = qdict_new();

    hotsnap_standstill_beat(e->member);
    hs_snapshot_get_stats(e->snapshot, &s);
    qdict_put_int(json, "done", s.bytes_done);
    qdict_put_int(json, "total", s.bytes_total);
    hotsnap_local(e->member, HS_LOCAL_PROGRESS, json);
    timer_mod(e->progress_timer,
              qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + PROGRESS_MS);
}

/* The cut, asked for by SNAPSHOT or forced by the first red frame. */
void hotsnap_epoch_cut(HotsnapMember *m, const char *cause)
{
    HotsnapEpoch *e = m->epoch;
    QDict *json;
    char *white;
    Error *err = NULL;

    if (!e || e->aborting || !e->armed || e->cut_done ||
        qatomic_read(&e->cancelled)) {
        return;
    }
    e->cut_done = true;
    e->cut_cause = cause;
    if (!hotsnap_pause_and_cut(e, &err)) {
        hotsnap_epoch_drop_if_aborting(e, &err);
        if (err) {
            hotsnap_local_failed(m, err);
        }
        return;
    }
    json = qdict_new();
    white = hs_mediator_white_sent_json(m->mediator);
    qdict_put_obj(json, "white_sent", qobject_from_json(white, NULL));
    hs_string_free(white);
    qdict_put(json, "pause", hotsnap_report_pause(&e->pause));
    qdict_put_str(json, "cause", cause);
    hotsnap_local(m, HS_LOCAL_CUT, json);
    hotsnap_filters_release(m);
    hotsnap_epoch_run(e, "hotsnap/full", hotsnap_finish_task);
    e->progress_timer = timer_new_ms(QEMU_CLOCK_REALTIME, epoch_progress, e);
    epoch_progress(e);
}

static void cut_for_red_frame(void *opaque)
{
    hotsnap_epoch_cut(opaque, "red-frame");
}

/* The frame was taken in the middle of a backend's read: not the place. */
void hotsnap_cut_soon(HotsnapMember *m)
{
    hotsnap_post_main(m, cut_for_red_frame, m);
}

/* Channels: what other members sent before their cut is awaited. */

static void epoch_channels_fin(HotsnapEpoch *e)
{
    hs_mediator_stats stats = { .struct_size = sizeof(stats) };
    QDict *json = qdict_new();

    e->channels_closed = true;
    hs_mediator_close_channels(e->member->mediator);
    hs_mediator_get_stats(e->member->mediator, &stats);
    qdict_put_int(json, "recorded", stats.recorded);
    qdict_put_int(json, "lost", stats.lost);
    hotsnap_local(e->member, HS_LOCAL_CHANNELS_FIN, json);
    qemu_event_set(&e->channels_event);
}

void hotsnap_epoch_check_channels(HotsnapMember *m)
{
    HotsnapEpoch *e = m->epoch;

    if (e && e->expecting && !e->channels_closed &&
        hs_mediator_channels_complete(m->mediator)) {
        epoch_channels_fin(e);
    }
}

void hotsnap_epoch_expect(HotsnapMember *m, QDict *expected)
{
    HotsnapEpoch *e = m->epoch;
    g_autoptr(GString) json = NULL;
    Error *err = NULL;
    char *error = NULL;

    if (!e || e->aborting || e->channels_closed) {
        return;
    }
    json = qobject_to_json(QOBJECT(expected));
    if (!hs_mediator_expect(m->mediator, json->str, &error)) {
        error_setg(&err, "%s", error);
        hs_string_free(error);
        hotsnap_local_failed(m, err);
        return;
    }
    e->expecting = true;
    hotsnap_epoch_check_channels(m);
}

void hotsnap_epoch_close_channels(HotsnapMember *m)
{
    HotsnapEpoch *e = m->epoch;

    if (e && !e->aborting && !e->channels_closed) {
        epoch_channels_fin(e);
    }
}

void hotsnap_epoch_end_coloring(HotsnapMember *m)
{
    hs_mediator_end_coloring(m->mediator);
    hotsnap_filters_release(m);
}

/* The end, either way. */

void hotsnap_epoch_commit(HotsnapMember *m)
{
    HotsnapEpoch *e = m->epoch;

    if (e && !e->aborting) {
        hs_mediator_reset(m->mediator);
        hotsnap_filters_release(m);
        epoch_free(e);
    }
}

void hotsnap_epoch_abort(HotsnapMember *m, const char *text)
{
    HotsnapEpoch *e = m->epoch;

    /* Frames first: they must flow whatever else is left to undo. */
    if (e && e->writing_channel) {
        /* The same for frames, but the record stays for who is reading it. */
        hs_mediator_end_coloring(m->mediator);
    } else {
        hs_mediator_reset(m->mediator);
    }
    hotsnap_filters_release(m);
    if (!e) {
        hotsnap_local(m, HS_LOCAL_ABORTED, NULL);
        return;
    }
    if (e->aborting) {
        return;
    }
    e->aborting = true;
    e->abort_reason = g_strdup(text);
    if (e->progress_timer) {
        timer_del(e->progress_timer);
    }
    hotsnap_priority_lower(e->raised);
    hotsnap_stop_memory(m, text); /* if it came after the iothread's word */
    /* The task may wait for either. */
    qemu_event_set(&e->channels_event);
    qemu_event_set(&e->memory_event);
    if (!e->task_running) {
        hotsnap_undo_begin(e);
    }
}
