/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Carries out what the coordinator says, and tells it what happened.
 *
 * The coordinator is confined to the member's iothread. Its actions on
 * sockets and timers are done there; all others are handed to the main loop.
 *
 * What is handed to the main loop goes through one queue and runs one at a
 * time, in order. A plain bottom half would not do: draining disks polls the
 * main loop's AioContext, so that an ABORT could run in the middle of the
 * pause it aborts.
 */
#include "qemu/osdep.h"
#include "internal.h"
#include "qapi/error.h"
#include "qapi/qapi-events-hotsnap.h"
#include "qemu/main-loop.h"
#include "qobject/qjson.h"
#include "trace.h"

typedef struct MainAction {
    HotsnapMember *member;
    hs_action_kind kind;
    char *text;
    bool failed;
} MainAction;

static void say_phase(HotsnapMember *m, QDict *say)
{
    const char *name = qdict_get_try_str(say, "phase");
    const char *reason = qdict_get_try_str(say, "reason");
    const char *tag = qdict_get_try_str(say, "tag") ?: "";
    const char *role = qdict_get_try_str(say, "role") ?: "none";
    int phase = qapi_enum_parse(&HotsnapPhase_lookup, name, -1, NULL);

    if (phase < 0) {
        return;
    }
    m->phase = phase;
    m->epoch_number = qdict_get_try_int(say, "epoch", 0);
    g_free(m->role);
    m->role = g_strdup(role);
    g_free(m->tag);
    m->tag = g_strdup(tag);
    if (reason && *reason) {
        g_free(m->error);
        m->error = g_strdup(reason);
    } else if (phase == HOTSNAP_PHASE_PREPARE ||
               phase == HOTSNAP_PHASE_LOAD) {
        g_clear_pointer(&m->error, g_free);
    }
    if (m->epoch) {
        m->epoch->number = m->epoch_number;
    }
    qapi_event_send_hotsnap_phase(phase, role, m->epoch_number, tag, reason);
}

typedef struct MainWork {
    void (*fn)(void *opaque);
    void *opaque;
} MainWork;

static void main_queue_bh(void *opaque)
{
    HotsnapMember *m = opaque;

    while (!m->main_busy) {
        MainWork *work;

        WITH_QEMU_LOCK_GUARD(&m->main_lock) {
            work = g_queue_pop_head(&m->main_queue);
        }
        if (!work) {
            break;
        }
        m->main_busy = true;
        work->fn(work->opaque);
        m->main_busy = false;
        g_free(work);
    }
    object_unref(OBJECT(m));
}

void hotsnap_post_main(HotsnapMember *m, void (*fn)(void *opaque),
                       void *opaque)
{
    MainWork *work = g_new0(MainWork, 1);

    work->fn = fn;
    work->opaque = opaque;
    object_ref(OBJECT(m));
    WITH_QEMU_LOCK_GUARD(&m->main_lock) {
        g_queue_push_tail(&m->main_queue, work);
    }
    aio_bh_schedule_oneshot(qemu_get_aio_context(), main_queue_bh, m);
}

/* Whose text must be understood; else it is a reason, or only said. */
static bool action_needs_json(hs_action_kind kind)
{
    return kind == HS_DO_PREPARE || kind == HS_DO_INSTALL ||
           kind == HS_DO_EXPECT || kind == HS_DO_PUBLISH ||
           kind == HS_DO_LOAD;
}

/*
 * The coordinator's parser takes what QEMU's does not: characters that
 * Unicode has none of, for one. Other members can send those.
 */
static QDict *action_json(MainAction *a, Error **errp)
{
    QObject *parsed = qobject_from_json(a->text ?: "{}", errp);
    QDict *json = qobject_to(QDict, parsed);

    if (parsed && !json) {
        error_setg(errp, "Not a JSON object");
        qobject_unref(parsed);
    }
    return json;
}

static void main_action(void *opaque)
{
    MainAction *a = opaque;
    HotsnapMember *m = a->member;
    Error *err = NULL;
    g_autoptr(QDict) json = action_json(a, &err);

    if (!json && action_needs_json(a->kind)) {
        error_prepend(&err, "QEMU cannot read what it was asked to do: ");
        hotsnap_local_failed(m, err);
        goto out;
    }
    error_free(err);
    json = json ?: qdict_new();
    switch (a->kind) {
    case HS_DO_PREPARE:
        hotsnap_epoch_prepare(m, json);
        break;
    case HS_DO_INSTALL:
        hotsnap_epoch_install(m, json);
        break;
    case HS_DO_ARM:
        hotsnap_epoch_arm(m);
        break;
    case HS_DO_CUT:
        hotsnap_epoch_cut(m, "snapshot");
        break;
    case HS_DO_EXPECT:
        hotsnap_epoch_expect(m, json);
        break;
    case HS_DO_CLOSE_CHANNELS:
        hotsnap_epoch_close_channels(m);
        break;
    case HS_DO_END_COLORING:
        hotsnap_epoch_end_coloring(m);
        break;
    case HS_DO_PUBLISH:
        hotsnap_publish(m, json);
        break;
    case HS_DO_COMMIT:
        if (m->restored) {
            hotsnap_restore_commit(m);
        } else {
            hotsnap_epoch_commit(m);
        }
        break;
    case HS_DO_ABORT:
        if (m->restoring || m->restored) {
            hotsnap_restore_abort(m);
        } else {
            hotsnap_epoch_abort(m, a->text);
        }
        break;
    case HS_DO_LOAD:
        hotsnap_restore_load(m, json);
        break;
    case HS_DO_START:
        hotsnap_restore_start(m);
        break;
    case HS_SAY_PHASE:
        say_phase(m, json);
        break;
    case HS_SAY_PROGRESS:
        hotsnap_job_progress(m, qdict_get_try_int(json, "done", 0),
                             qdict_get_try_int(json, "total", 0));
        break;
    case HS_SAY_FINISHED:
        hotsnap_job_finished(m, a->failed, a->text);
        break;
    default:
        g_assert_not_reached();
    }
out:
    g_free(a->text);
    g_free(a);
}

void hotsnap_dispatch(HotsnapMember *m)
{
    hs_action action;

    /*
     * Sending can find a link dead, which is news for the coordinator and
     * lands here again: the outer call picks up what came of it.
     */
    if (m->draining) {
        return;
    }
    m->draining = true;
    while (hs_coordinator_next_action(m->coordinator, &action)) {
        trace_hotsnap_action(action.kind, action.text ?: "");
        switch (action.kind) {
        case HS_DO_CONNECT: {
            g_autofree char *address = g_strdup(action.text);

            hotsnap_link_connect(m, address);
            break;
        }
        case HS_DO_SEND: {
            g_autofree uint8_t *data = g_memdup2(action.data, action.size);

            hotsnap_link_send(m, action.link, data, action.size);
            break;
        }
        case HS_DO_CLOSE:
            hotsnap_link_close(m, action.link);
            break;
        case HS_DO_TIMER:
            if (action.deadline_us == UINT64_MAX) {
                timer_del(m->timer);
            } else {
                /* The timer's clock and ours are both CLOCK_MONOTONIC. */
                timer_mod(m->timer, action.deadline_us);
            }
            break;
        default: {
            MainAction *a = g_new0(MainAction, 1);

            if (action.kind == HS_DO_ABORT) {
                /* Now: the main loop may wait for what this releases. */
                hotsnap_stop_memory(m, action.text);
                hotsnap_standstill_end(m);
            }
            a->member = m;
            a->kind = action.kind;
            a->text = g_strdup(action.text);
            a->failed = action.failed;
            hotsnap_post_main(m, main_action, a);
        }
        }
    }
    m->draining = false;
}

typedef struct LocalEvent {
    HotsnapMember *member;
    hs_local_kind kind;
    char *json;
} LocalEvent;

static void local_bh(void *opaque)
{
    LocalEvent *l = opaque;
    HotsnapMember *m = l->member;

    trace_hotsnap_local(l->kind, l->json);
    hotsnap_standstill_local(m, l->kind);
    hs_coordinator_local(m->coordinator, l->kind, l->json, hotsnap_now_us());
    hotsnap_dispatch(m);
    g_free(l->json);
    g_free(l);
}

void hotsnap_local(HotsnapMember *m, hs_local_kind kind, QDict *json)
{
    g_autoptr(QDict) owned = json ?: qdict_new();
    g_autoptr(GString) text = qobject_to_json(QOBJECT(owned));
    LocalEvent *l = g_new0(LocalEvent, 1);

    l->member = m;
    l->kind = kind;
    l->json = g_strdup(text->str);
    aio_bh_schedule_oneshot(m->ctx, local_bh, l);
}

void hotsnap_local_failed(HotsnapMember *m, Error *err)
{
    QDict *json = qdict_new();

    qdict_put_str(json, "error", error_get_pretty(err));
    error_free(err);
    hotsnap_local(m, HS_LOCAL_FAILED, json);
}

typedef struct MainCall {
    void (*fn)(void *opaque);
    void *opaque;
    QemuEvent done;
} MainCall;

static void main_call(void *opaque)
{
    MainCall *call = opaque;

    call->fn(call->opaque);
    qemu_event_set(&call->done);
}

void hotsnap_call_main(HotsnapMember *m, void (*fn)(void *opaque),
                       void *opaque)
{
    MainCall call = { .fn = fn, .opaque = opaque };

    qemu_event_init(&call.done, false);
    hotsnap_post_main(m, main_call, &call);
    qemu_event_wait(&call.done);
    qemu_event_destroy(&call.done);
}
