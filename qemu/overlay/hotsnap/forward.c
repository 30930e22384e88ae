/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Frames that the mediator's filter sends on by itself, which were held,
 * recorded, or are recolored. Main loop, under the BQL.
 *
 * Their sender takes them for sent, and does not send them again. QEMU's
 * queue of a NIC, or of a tap, takes any number of frames that have a
 * callback (it drops those without silently beyond 10,000), keeps their
 * order, new ones behind, and delivers them when the receiver can take them.
 * The bound is ours.
 */
#include "qemu/osdep.h"
#include "internal.h"
#include "net/net.h"
#include "net/queue.h"
#include "qemu/iov.h"
#include "qemu/units.h"
#include "trace.h"

#define UNDELIVERED_MAX (64 * MiB)

static void forward_lost(FilterHotsnap *f, size_t size)
{
    trace_hotsnap_undelivered(f->nic, size);
    hs_mediator_undelivered(f->member->mediator, 1);
}

static void forward_sent(NetClientState *sender, ssize_t ret)
{
    HotsnapMember *m = hotsnap_member(NULL);
    FilterHotsnap *f;

    if (!m) {
        return;
    }
    QTAILQ_FOREACH(f, &m->filters, next_filter) {
        NetClientState *netdev = NETFILTER(f)->netdev;
        bool to_guest = sender == netdev;

        if ((to_guest || sender == netdev->peer) &&
            !g_queue_is_empty(&f->undelivered[to_guest])) {
            size_t size = GPOINTER_TO_SIZE(
                g_queue_pop_head(&f->undelivered[to_guest]));

            f->undelivered_bytes -= size;
            if (ret <= 0) {
                forward_lost(f, size); /* purged: the VM stopped, or a reset */
            }
            return;
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

/* Recorded frames go first: those that come before wait here. */
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
