/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The coordinator is confined to the iothread. Its actions on connections and
 * timers are carried out there; all others are handed over. Other threads
 * reach it through one queue, which keeps their order.
 */
#include "qemu/osdep.h"
#include "clock.h"
#include "protocol.h"
#include "qapi/error.h"
#include "qemu/timer.h"
#include "queue.h"
#include "system/iothread.h"
#include "trace.h"
#include "transport/connect.h"
#include "transport/links.h"

struct HotsnapProtocol {
    const HotsnapProtocolOps *ops;
    void *opaque;
    IOThread *iothread;
    HotsnapQueue *queue;         /* work for the iothread */
    /* iothread only */
    hs_coordinator *coordinator;
    HotsnapLinks *links;
    QEMUTimer *timer;
    bool dispatching;            /* dispatch() is on the stack */
};

static void dispatch_one(HotsnapProtocol *p, const hs_action *action)
{
    switch (action->kind) {
    case HS_DO_CONNECT: {
        g_autofree char *address = g_strdup(action->text);

        hotsnap_links_connect(p->links, address);
        break;
    }
    case HS_DO_SEND: {
        g_autofree uint8_t *data = g_memdup2(action->data, action->size);

        hotsnap_links_send(p->links, action->link, data, action->size);
        break;
    }
    case HS_DO_CLOSE: {
        g_autofree char *fault = g_strdup(action->text ?: "");

        hotsnap_links_close(p->links, action->link, fault);
        break;
    }
    case HS_DO_TIMER:
        if (action->deadline_us == UINT64_MAX) {
            timer_del(p->timer);
        } else {
            /* The timer's clock and ours are both CLOCK_MONOTONIC. */
            timer_mod(p->timer, action->deadline_us);
        }
        break;
    case HS_DO_WORK:
        p->ops->work(p->opaque, action->work);
        break;
    default:
        p->ops->say(p->opaque, action->kind, action->text, action->failed);
    }
}

/*
 * Sending can find a link dead. That is news for the coordinator, and calls
 * this function again: the outer call takes the actions that follow.
 */
static void dispatch(void *opaque)
{
    HotsnapProtocol *p = opaque;
    hs_action action;

    if (p->dispatching) {
        return;
    }
    p->dispatching = true;
    while (hs_coordinator_next_action(p->coordinator, &action)) {
        trace_hotsnap_action(action.kind, action.text ?: "");
        dispatch_one(p, &action);
    }
    p->dispatching = false;
}

static void authorize(void *opaque, hs_link link, const char *identity)
{
    HotsnapProtocol *p = opaque;

    p->ops->authorize(p->opaque, link, identity);
}

static const HotsnapLinksOps links_ops = {
    .dispatch = dispatch,
    .authorize = authorize,
};

typedef struct AuthorizedCall {
    HotsnapProtocol *protocol;
    hs_link link;
    char *refusal;
} AuthorizedCall;

static void take_authorized(void *opaque)
{
    AuthorizedCall *call = opaque;

    hotsnap_links_authorized(call->protocol->links, call->link, call->refusal);
    g_free(call->refusal);
    g_free(call);
}

void hotsnap_protocol_authorized(HotsnapProtocol *p, hs_link link,
                                 const char *refusal)
{
    AuthorizedCall *call = g_new0(AuthorizedCall, 1);

    call->protocol = p;
    call->link = link;
    call->refusal = g_strdup(refusal);
    hotsnap_queue_post(p->queue, take_authorized, call);
}

static void tick(void *opaque)
{
    HotsnapProtocol *p = opaque;

    hs_coordinator_tick(p->coordinator, hotsnap_now_us());
    dispatch(p);
}

typedef struct EventCall {
    HotsnapProtocol *protocol;
    hs_event *event;
} EventCall;

static void take_event(void *opaque)
{
    g_autofree EventCall *call = opaque;
    HotsnapProtocol *p = call->protocol;

    trace_hotsnap_event(hs_event_name(call->event));
    hs_coordinator_event(p->coordinator, call->event, hotsnap_now_us());
    dispatch(p);
}

void hotsnap_protocol_event(HotsnapProtocol *p, hs_event *event)
{
    EventCall *call = g_new0(EventCall, 1);

    call->protocol = p;
    call->event = event;
    hotsnap_queue_post(p->queue, take_event, call);
}

typedef struct StartCall {
    HotsnapProtocol *protocol;
    bool (*start)(hs_coordinator *, const char *, uint64_t, char **);
    const char *request;
    char *error;
    bool ok;
} StartCall;

static void start(void *opaque)
{
    StartCall *call = opaque;
    HotsnapProtocol *p = call->protocol;

    call->ok = call->start(p->coordinator, call->request, hotsnap_now_us(),
                           &call->error);
    dispatch(p);
}

/*
 * The main loop waits for the iothread, which never waits for the main loop.
 */
static bool call_start(StartCall *call, Error **errp)
{
    hotsnap_queue_call(call->protocol->queue, start, call);
    if (!call->ok) {
        error_setg(errp, "%s", call->error);
        hs_string_free(call->error);
    }
    return call->ok;
}

bool hotsnap_protocol_snapshot(HotsnapProtocol *p, const char *request,
                               Error **errp)
{
    StartCall call = { p, hs_coordinator_snapshot, request };

    return call_start(&call, errp);
}

bool hotsnap_protocol_restore(HotsnapProtocol *p, const char *request,
                              Error **errp)
{
    StartCall call = { p, hs_coordinator_restore, request };

    return call_start(&call, errp);
}

typedef struct DurationCall {
    HotsnapProtocol *protocol;
    uint64_t duration_us;
    char *error;
    bool ok;
} DurationCall;

static void set_duration(void *opaque)
{
    DurationCall *call = opaque;
    HotsnapProtocol *p = call->protocol;

    call->ok = hs_coordinator_set_duration(p->coordinator, call->duration_us,
                                           hotsnap_now_us(), &call->error);
    dispatch(p);
}

bool hotsnap_protocol_set_duration(HotsnapProtocol *p, uint64_t duration_us,
                                   Error **errp)
{
    DurationCall call = { p, duration_us };

    hotsnap_queue_call(p->queue, set_duration, &call);
    if (!call.ok) {
        error_setg(errp, "%s", call.error);
        hs_string_free(call.error);
    }
    return call.ok;
}

static void cancel(void *opaque)
{
    HotsnapProtocol *p = opaque;

    hs_coordinator_cancel(p->coordinator, "by the user", hotsnap_now_us());
    dispatch(p);
}

void hotsnap_protocol_cancel(HotsnapProtocol *p)
{
    hotsnap_queue_post(p->queue, cancel, p);
}

int hotsnap_protocol_thread_id(HotsnapProtocol *p)
{
    return p->iothread->thread_id;
}

static void shut_down(void *opaque)
{
    HotsnapProtocol *p = opaque;

    if (p->links) {
        hotsnap_links_end_connects(p->links);
        hotsnap_links_free(p->links);
    }
    timer_free(p->timer);
}

void hotsnap_protocol_free(HotsnapProtocol *p)
{
    if (!p) {
        return;
    }
    if (p->queue) {
        /* The last item: all items posted before are done by then. */
        hotsnap_queue_call(p->queue, shut_down, p);
        iothread_destroy(p->iothread);
        hotsnap_queue_free(p->queue);
    }
    hs_coordinator_free(p->coordinator);
    g_free(p);
}

HotsnapProtocol *hotsnap_protocol_new(const char *name, const char *listen,
                                      const HotsnapTls *tls,
                                      const HotsnapProtocolOps *ops,
                                      void *opaque, Error **errp)
{
    HotsnapProtocol *p = g_new0(HotsnapProtocol, 1);
    AioContext *ctx;
    char *error = NULL;

    p->ops = ops;
    p->opaque = opaque;
    p->coordinator = hs_coordinator_new(name, &error);
    if (!p->coordinator) {
        error_setg(errp, "%s", error);
        hs_string_free(error);
        goto fail;
    }
    p->iothread = iothread_create("hotsnap", errp);
    if (!p->iothread) {
        goto fail;
    }
    ctx = iothread_get_aio_context(p->iothread);
    p->queue = hotsnap_queue_new(ctx, NULL);
    p->timer = aio_timer_new(ctx, QEMU_CLOCK_REALTIME, SCALE_US, tick, p);
    p->links = hotsnap_links_new(p->coordinator, ctx,
                                 iothread_get_g_main_context(p->iothread), tls,
                                 &links_ops, p);
    if (!hotsnap_links_listen(p->links, listen, errp)) {
        goto fail;
    }
    return p;

fail:
    hotsnap_protocol_free(p);
    return NULL;
}
