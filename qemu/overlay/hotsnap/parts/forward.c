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
#include "qemu/iov.h"
#include "qemu/units.h"
#include "../trace.h"

#define UNDELIVERED_MAX (64 * MiB)

static void forward_lost(FilterHotsnap *f, size_t size)
{
    trace_hotsnap_undelivered(f->nic, size);
    hs_mediator_undelivered(f->network->mediator, 1);
}

/* The filter of @netdev that waits for the end of a frame. */
static FilterHotsnap *waiting_filter(NetClientState *netdev, bool to_guest)
{
    NetFilterState *nf;

    if (netdev) {
        QTAILQ_FOREACH(nf, &netdev->filters, next) {
            FilterHotsnap *f = (FilterHotsnap *)
                object_dynamic_cast(OBJECT(nf), TYPE_FILTER_HOTSNAP);

            if (f && !g_queue_is_empty(&f->undelivered[to_guest])) {
                return f;
            }
        }
    }
    return NULL;
}

static void forward_sent(NetClientState *sender, ssize_t ret)
{
    bool to_guest = sender->info->type != NET_CLIENT_DRIVER_NIC;
    FilterHotsnap *f = waiting_filter(to_guest ? sender : sender->peer,
                                      to_guest);
    size_t size;

    if (f) {
        size = GPOINTER_TO_SIZE(g_queue_pop_head(&f->undelivered[to_guest]));
        f->undelivered_bytes -= size;
        if (ret <= 0) {
            forward_lost(f, size); /* purged: the VM stopped, or a reset */
        }
    }
}

void hotsnap_forward(FilterHotsnap *f, NetClientState *sender, unsigned flags,
                     const struct iovec *iov, int iovcnt)
{
    NetFilterState *nf = NETFILTER(f);
    bool to_guest = sender == nf->netdev;
    size_t size = iov_size(iov, iovcnt);
    NetFilterState *next = nf;
    NetQueue *queue;
    ssize_t ret;

    if (!sender) {
        forward_lost(f, size); /* the NIC is gone */
        return;
    }
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
    if (!g_queue_is_empty(&f->undelivered[to_guest]) &&
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
    g_queue_push_tail(&f->undelivered[to_guest], GSIZE_TO_POINTER(size));
    f->undelivered_bytes += size;
}

void hotsnap_forward_frame(FilterHotsnap *f, const hs_frame *frame)
{
    NetFilterState *nf = NETFILTER(f);
    struct iovec iov = {
        .iov_base = (void *)frame->data, .iov_len = frame->size
    };

    hotsnap_forward(f, frame->direction == HS_TO_GUEST ? nf->netdev
                                                      : nf->netdev->peer,
                   QEMU_NET_PACKET_FLAG_NONE, &iov, 1);
}

void hotsnap_forward_released(HotsnapNetwork *n)
{
    hs_frame frame;

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

void hotsnap_forward_end(FilterHotsnap *f)
{
    for (int i = 0; i < ARRAY_SIZE(f->undelivered); i++) {
        g_queue_clear(&f->undelivered[i]);
    }
}
