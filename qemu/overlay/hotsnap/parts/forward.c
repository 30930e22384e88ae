/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Frames that the mediator's filter sends on by itself, which were held,
 * recorded, or are recolored. Main loop, under the BQL.
 *
 * Their sender takes them for sent, and does not send them again. QEMU's
 * queue of a NIC, or of a tap, takes any number of frames that have a
 * callback (frames without one it drops silently beyond 10,000). It keeps
 * their order, new ones last, and delivers them when the receiver can take
 * them. The bound is ours.
 */
#include "qemu/osdep.h"
#include "forward.h"
#include "net/net.h"
#include "net/queue.h"
#include "nic_queue.h"
#include "qemu/iov.h"
#include "qemu/units.h"
#include "../trace.h"

#define UNDELIVERED_MAX (64 * MiB)

static void forward_lost(FilterHotsnap *f, size_t size)
{
    trace_hotsnap_undelivered(f->nic, size);
    hs_mediator_undelivered(f->network->mediator, 1);
}

/* The queue with that backend that waits for the end of a frame. */
static HotsnapNicQueue *waiting_queue(NetClientState *netdev, bool to_guest)
{
    NetFilterState *nf;

    if (netdev) {
        QTAILQ_FOREACH(nf, &netdev->filters, next) {
            HotsnapNicQueue *q = hotsnap_nic_queue_of(nf);

            if (q && !g_queue_is_empty(&q->undelivered[to_guest])) {
                return q;
            }
        }
    }
    return NULL;
}

static void forward_sent(NetClientState *sender, ssize_t ret)
{
    bool to_guest = sender->info->type != NET_CLIENT_DRIVER_NIC;
    HotsnapNicQueue *q = waiting_queue(to_guest ? sender : sender->peer,
                                       to_guest);
    size_t size;

    if (q) {
        size = GPOINTER_TO_SIZE(g_queue_pop_head(&q->undelivered[to_guest]));
        q->filter->undelivered_bytes -= size;
        if (ret <= 0) {
            /* Purged: the VM stopped, or a reset. */
            forward_lost(q->filter, size);
        }
    }
}

void hotsnap_forward(FilterHotsnap *f, NetClientState *sender, unsigned flags,
                     const struct iovec *iov, int iovcnt)
{
    size_t size = iov_size(iov, iovcnt);
    HotsnapNicQueue *q;
    NetFilterState *next;
    NetQueue *queue;
    bool to_guest;
    ssize_t ret;

    if (!sender) {
        forward_lost(f, size); /* the NIC is gone */
        return;
    }
    q = hotsnap_nic_queue(f, sender);
    if (!q->place) {
        forward_lost(f, size); /* the filter is being deleted */
        return;
    }
    to_guest = sender == q->netdev;
    next = q->place;
    while ((next = to_guest ? QTAILQ_NEXT(next, next)
                            : QTAILQ_PREV(next, next))) {
        if (qemu_netfilter_receive(next, to_guest ? NET_FILTER_DIRECTION_TX
                                                  : NET_FILTER_DIRECTION_RX,
                                   sender, flags, iov, iovcnt, NULL)) {
            return;
        }
    }
    if (!sender->peer || sender->peer->link_down ||
        f->undelivered_bytes + size > UNDELIVERED_MAX) {
        forward_lost(f, size);
        return;
    }
    queue = sender->peer->incoming_queue;
    if (!to_guest && hotsnap_network_stands(f->network)) {
        qemu_net_queue_append_iov(queue, sender, flags, iov, iovcnt,
                                  forward_sent);
        g_queue_push_tail(&q->undelivered[false], GSIZE_TO_POINTER(size));
        f->undelivered_bytes += size;
        qemu_net_queue_flush(queue); /* it does not ask whether the VM runs */
        return;
    }
    if (!g_queue_is_empty(&q->undelivered[to_guest]) &&
        (!qemu_can_send_packet(sender) || !qemu_net_queue_flush(queue))) {
        qemu_net_queue_append_iov(queue, sender, flags, iov, iovcnt,
                                  forward_sent);
    } else {
        ret = qemu_net_queue_send_iov(queue, sender, flags, iov, iovcnt,
                                      forward_sent);
        if (ret < 0) {
            forward_lost(f, size);
        }
        if (ret) {
            return;
        }
    }
    g_queue_push_tail(&q->undelivered[to_guest], GSIZE_TO_POINTER(size));
    f->undelivered_bytes += size;
}

/*
 * By the queue that it came in, or was sent through: so a flow keeps its order.
 * Queue 0 is always there.
 */
void hotsnap_forward_frame(FilterHotsnap *f, const hs_frame *frame)
{
    HotsnapNicQueue *q = &f->queues[0];
    struct iovec iov = {
        .iov_base = (void *)frame->data, .iov_len = frame->size
    };

    if (frame->queue < f->queue_count && !f->queues[frame->queue].off) {
        q = &f->queues[frame->queue];
    }
    hotsnap_forward(f, frame->direction == HS_TO_GUEST ? q->netdev
                                                      : q->netdev->peer,
                   QEMU_NET_PACKET_FLAG_NONE, &iov, 1);
}

void hotsnap_forward_released(HotsnapNetwork *n)
{
    hs_frame frame;

    hotsnap_nic_queues_ask(n);
    while (hs_mediator_next_released(n->mediator, &frame,
                                     g_get_real_time() * 1000)) {
        FilterHotsnap *f = hotsnap_network_filter(n, frame.nic);

        if (f) {
            hotsnap_forward_frame(f, &frame);
        } else {
            hs_mediator_undelivered(n->mediator, 1);
        }
    }
}

ssize_t hotsnap_forward_waiting(NetClientState *sender, unsigned flags,
                                const struct iovec *iov, int iovcnt,
                                void *opaque)
{
    FilterHotsnap *f = opaque;
    size_t size = iov_size(iov, iovcnt);

    f->undelivered_bytes -= size;
    hotsnap_forward(f, sender, flags, iov, iovcnt);
    return size;
}

/* Without a callback the queue would drop frames beyond 10,000. */
static void restore_waited(NetClientState *sender, ssize_t ret)
{
}

/* Recorded frames go first: frames that come before them wait here. */
ssize_t hotsnap_forward_later(FilterHotsnap *f, NetClientState *sender,
                              unsigned flags, const struct iovec *iov,
                              int iovcnt)
{
    size_t size = iov_size(iov, iovcnt);

    if (f->undelivered_bytes + size > UNDELIVERED_MAX) {
        forward_lost(f, size);
        return size;
    }
    f->undelivered_bytes += size;
    qemu_net_queue_append_iov(f->restore_queue, sender, flags, iov, iovcnt,
                              restore_waited);
    return size;
}
