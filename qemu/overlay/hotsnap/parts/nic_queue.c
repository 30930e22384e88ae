/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include "net/net.h"
#include "net/tap.h"
#include "nic_queue.h"

#define TYPE_FILTER_HOTSNAP_QUEUE "filter-hotsnap-queue"
OBJECT_DECLARE_SIMPLE_TYPE(FilterHotsnapQueue, FILTER_HOTSNAP_QUEUE)

/* The companion. Users cannot make one: it is in no schema. */
struct FilterHotsnapQueue {
    NetFilterState parent_obj;

    HotsnapNicQueue *queue;
};

/* As the filter itself would be asked: it may be off, or for one direction. */
static ssize_t queue_receive_iov(NetFilterState *nf, NetClientState *sender,
                                 unsigned flags, const struct iovec *iov,
                                 int iovcnt, NetPacketSent *sent_cb)
{
    FilterHotsnap *f = FILTER_HOTSNAP_QUEUE(nf)->queue->filter;
    NetFilterDirection direction = sender == nf->netdev
        ? NET_FILTER_DIRECTION_TX : NET_FILTER_DIRECTION_RX;

    return qemu_netfilter_receive(NETFILTER(f), direction, sender, flags, iov,
                                  iovcnt, sent_cb);
}

/*
 * The companion is the filter's child, and so leaves the chain when the filter
 * is deleted. Other filters refuse a backend with several queues, so the place
 * in the chain matters between filters of this type only.
 */
static NetFilterState *add_companion(FilterHotsnap *f, HotsnapNicQueue *q,
                                     unsigned number)
{
    NetFilterState *main = NETFILTER(f);
    Object *obj = object_new(TYPE_FILTER_HOTSNAP_QUEUE);
    NetFilterState *nf = NETFILTER(obj);
    g_autofree char *name = g_strdup_printf("queue%u", number);

    FILTER_HOTSNAP_QUEUE(obj)->queue = q;
    nf->netdev_id = g_strdup(main->netdev_id);
    nf->netdev = q->netdev;
    if (g_str_equal(main->position, "head")) {
        QTAILQ_INSERT_HEAD(&q->netdev->filters, nf, next);
    } else {
        QTAILQ_INSERT_TAIL(&q->netdev->filters, nf, next);
    }
    object_property_add_child(OBJECT(f), name, obj);
    object_unref(obj);
    return nf;
}

void hotsnap_nic_queues_begin(FilterHotsnap *f)
{
    NetFilterState *main = NETFILTER(f);
    NetClientState *ncs[MAX_QUEUE_NUM];

    f->queue_count = qemu_find_net_clients_except(main->netdev_id, ncs,
                                                  NET_CLIENT_DRIVER_NIC,
                                                  MAX_QUEUE_NUM);
    f->queues = g_new0(HotsnapNicQueue, f->queue_count);
    for (unsigned i = 0; i < f->queue_count; i++) {
        HotsnapNicQueue *q = &f->queues[i];

        q->filter = f;
        q->netdev = ncs[i];
        q->place = i ? add_companion(f, q, i) : main;
    }
}

/* Frames in QEMU's queues stay there; nobody waits for their end any more. */
void hotsnap_nic_queues_end(FilterHotsnap *f)
{
    for (unsigned i = 0; i < f->queue_count; i++) {
        g_queue_clear(&f->queues[i].undelivered[false]);
        g_queue_clear(&f->queues[i].undelivered[true]);
    }
    g_clear_pointer(&f->queues, g_free);
    f->queue_count = 0;
}

HotsnapNicQueue *hotsnap_nic_queue(FilterHotsnap *f, NetClientState *sender)
{
    /* QEMU numbers both ends alike. */
    assert(sender->queue_index < f->queue_count);
    return &f->queues[sender->queue_index];
}

HotsnapNicQueue *hotsnap_nic_queue_of(NetFilterState *nf)
{
    Object *obj = OBJECT(nf);

    if (object_dynamic_cast(obj, TYPE_FILTER_HOTSNAP)) {
        return FILTER_HOTSNAP(obj)->queues;
    }
    if (object_dynamic_cast(obj, TYPE_FILTER_HOTSNAP_QUEUE)) {
        return FILTER_HOTSNAP_QUEUE(obj)->queue;
    }
    return NULL;
}

static bool has_tap_queues(const FilterHotsnap *f)
{
    return f->queue_count > 1 &&
           f->queues->netdev->info->type == NET_CLIENT_DRIVER_TAP;
}

/*
 * The NIC would not say so while the VM is stopped, but it has told the tap: a
 * restored one too, when its state was loaded.
 */
static bool is_off(const HotsnapNicQueue *q)
{
    struct ifreq ifr = { };

    return !ioctl(tap_get_fd(q->netdev), TUNGETIFF, &ifr) &&
           (ifr.ifr_flags & IFF_DETACH_QUEUE);
}

void hotsnap_nic_queues_ask(HotsnapNetwork *n)
{
    FilterHotsnap *f;

    QTAILQ_FOREACH(f, &n->filters, next_filter) {
        for (unsigned i = 0; has_tap_queues(f) && i < f->queue_count; i++) {
            f->queues[i].off = is_off(&f->queues[i]);
        }
    }
}

/* Whether all that came has been read, and so been seen by the mediator. */
static bool is_empty(const HotsnapNicQueue *q)
{
    struct pollfd pfd = { .fd = tap_get_fd(q->netdev), .events = POLLIN };

    return poll(&pfd, 1, 0) >= 0 && !(pfd.revents & POLLIN);
}

void hotsnap_nic_queues_look(HotsnapNetwork *n)
{
    FilterHotsnap *f;

    if (!hs_mediator_awaits_empty(n->mediator)) {
        return;
    }
    QTAILQ_FOREACH(f, &n->filters, next_filter) {
        if (!f->nic_added || !has_tap_queues(f)) {
            continue;
        }
        for (unsigned i = 0; i < f->queue_count; i++) {
            if (is_empty(&f->queues[i])) {
                hs_mediator_queue_empty(n->mediator, f->nic, i);
            }
        }
    }
}

/* The filter goes, too; but first it gives away the frames that it kept. */
static void filter_hotsnap_queue_finalize(Object *obj)
{
    HotsnapNicQueue *q = FILTER_HOTSNAP_QUEUE(obj)->queue;

    if (q) { /* else made to list its properties */
        q->place = NULL;
    }
}

static void filter_hotsnap_queue_class_init(ObjectClass *oc, void *data)
{
    NETFILTER_CLASS(oc)->receive_iov = queue_receive_iov;
}

static const TypeInfo filter_hotsnap_queue_info = {
    .name = TYPE_FILTER_HOTSNAP_QUEUE,
    .parent = TYPE_NETFILTER,
    .class_init = filter_hotsnap_queue_class_init,
    .instance_size = sizeof(FilterHotsnapQueue),
    .instance_finalize = filter_hotsnap_queue_finalize,
};

static void filter_hotsnap_queue_register(void)
{
    type_register_static(&filter_hotsnap_queue_info);
}

type_init(filter_hotsnap_queue_register);
