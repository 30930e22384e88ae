/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Work for an event loop, done in the order in which it was posted.
 *
 * One-shot bottom halves would not do: QEMU runs those that wait together
 * last-in-first-out; and draining disks polls the main loop's AioContext, so
 * that an ABORT could run in the middle of the pause that it aborts. Work of
 * a queue never begins while other work of that queue is under way.
 */
#ifndef HOTSNAP_QUEUE_H
#define HOTSNAP_QUEUE_H

#include "block/aio.h"
#include "qom/object.h"

typedef struct HotsnapQueue HotsnapQueue;

/*
 * Every item of work keeps a reference to @owner, which may be NULL. @ctx is
 * where the work is done.
 */
HotsnapQueue *hotsnap_queue_new(AioContext *ctx, Object *owner);

/* Nothing may be posted any more, and all items must be done. */
void hotsnap_queue_free(HotsnapQueue *q);

/* Any thread. */
void hotsnap_queue_post(HotsnapQueue *q, void (*fn)(void *opaque),
                        void *opaque);

/*
 * The same, and waits until it is done. The caller must not be work of this
 * queue, and must hold no lock that the work needs (main loop: the BQL).
 */
void hotsnap_queue_call(HotsnapQueue *q, void (*fn)(void *opaque),
                        void *opaque);

#endif
