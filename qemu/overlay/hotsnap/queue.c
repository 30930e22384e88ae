/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "queue.h"

struct HotsnapQueue {
    AioContext *ctx;
    Object *owner;
    QemuMutex lock; /* protects the items */
    GQueue items;
    bool busy;      /* only in the event loop */
};

typedef struct Item {
    void (*fn)(void *opaque);
    void *opaque;
} Item;

HotsnapQueue *hotsnap_queue_new(AioContext *ctx, Object *owner)
{
    HotsnapQueue *q = g_new0(HotsnapQueue, 1);

    q->ctx = ctx;
    q->owner = owner;
    qemu_mutex_init(&q->lock);
    g_queue_init(&q->items);
    return q;
}

void hotsnap_queue_free(HotsnapQueue *q)
{
    if (q) {
        assert(g_queue_is_empty(&q->items));
        qemu_mutex_destroy(&q->lock);
        g_free(q);
    }
}

static Item *take_item(HotsnapQueue *q)
{
    QEMU_LOCK_GUARD(&q->lock);

    return g_queue_pop_head(&q->items);
}

static void run_items(void *opaque)
{
    HotsnapQueue *q = opaque;
    Object *owner = q->owner;

    while (!q->busy) {
        Item *item = take_item(q);

        if (!item) {
            break;
        }
        q->busy = true;
        item->fn(item->opaque);
        q->busy = false;
        g_free(item);
    }
    object_unref(owner); /* may free the queue */
}

void hotsnap_queue_post(HotsnapQueue *q, void (*fn)(void *opaque),
                        void *opaque)
{
    Item *item = g_new0(Item, 1);

    item->fn = fn;
    item->opaque = opaque;
    object_ref(q->owner);
    WITH_QEMU_LOCK_GUARD(&q->lock) {
        g_queue_push_tail(&q->items, item);
    }
    aio_bh_schedule_oneshot(q->ctx, run_items, q);
}

typedef struct Call {
    void (*fn)(void *opaque);
    void *opaque;
    QemuEvent done;
} Call;

static void call_fn(void *opaque)
{
    Call *call = opaque;

    call->fn(call->opaque);
    qemu_event_set(&call->done);
}

void hotsnap_queue_call(HotsnapQueue *q, void (*fn)(void *opaque),
                        void *opaque)
{
    Call call = { .fn = fn, .opaque = opaque };

    qemu_event_init(&call.done, false);
    hotsnap_queue_post(q, call_fn, &call);
    qemu_event_wait(&call.done);
    qemu_event_destroy(&call.done);
}
