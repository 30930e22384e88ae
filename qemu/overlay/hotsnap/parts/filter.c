/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * -object filter-hotsnap: puts the packet mediator into a NIC's path. A
 * netfilter, so that it works with tap and every other backend.
 *
 * Everything here runs in the main loop under the BQL, as netfilters do.
 */
#include "qemu/osdep.h"
#include "forward.h"
#include "net/net.h"
#include "net/queue.h"
#include "network.h"
#include "nic_queue.h"
#include "qapi/error.h"
#include "qemu/iov.h"
#include "qom/object_interfaces.h"
#include "../trace.h"
#include "../types.h"

/* A frame where its sender has it, guest memory for one. */
typedef struct FrameSource {
    const struct iovec *iov;
    int iovcnt;
    size_t head_size, size;
} FrameSource;

static void copy_rest(void *opaque, uint8_t *to)
{
    FrameSource *s = opaque;

    iov_to_buf(s->iov, s->iovcnt, s->head_size, to, s->size - s->head_size);
}

/* Passes on @head, and the rest from where it is. */
static void forward_patched(FilterHotsnap *f, NetClientState *sender,
                            unsigned flags, FrameSource *s, uint8_t *head)
{
    struct iovec iov[64] = {
        { .iov_base = head, .iov_len = s->head_size }
    };
    g_autofree uint8_t *rest = NULL;
    unsigned n = 0;

    if (s->iovcnt < ARRAY_SIZE(iov)) {
        n = iov_copy(iov + 1, s->iovcnt, s->iov, s->iovcnt, s->head_size,
                     s->size - s->head_size);
    } else if (s->size > s->head_size) {
        /* In more pieces than a system call may take, perhaps. */
        iov[1].iov_len = s->size - s->head_size;
        iov[1].iov_base = rest = g_malloc(iov[1].iov_len);
        copy_rest(s, rest);
        n = 1;
    }
    hotsnap_forward(f, sender, flags, iov, n + 1);
}

static ssize_t filter_receive_iov(NetFilterState *nf, NetClientState *sender,
                                  unsigned flags, const struct iovec *iov,
                                  int iovcnt, NetPacketSent *sent_cb)
{
    FilterHotsnap *f = FILTER_HOTSNAP(nf);
    HotsnapNetwork *n = f->network;
    FrameSource source = { .iov = iov, .iovcnt = iovcnt };
    uint8_t head[HS_FRAME_HEAD];
    uint8_t source_mac[6];
    hs_frame frame;
    hs_verdict verdict;
    bool to_guest = sender == hotsnap_nic_queue(f, sender)->netdev;
    size_t at;

    if (flags & QEMU_NET_PACKET_FLAG_RAW) {
        /* QEMU announces the NIC; no member is ever sent these. */
        return f->nic_added && !hs_mediator_has_own_address(n->mediator, f->nic)
               ? iov_size(iov, iovcnt) : 0;
    }
    if (n->loading && to_guest) {
        return hotsnap_forward_later(f, sender, flags, iov, iovcnt);
    }
    if (!f->nic_added && !n->ops->busy(n->opaque)) {
        hotsnap_network_identify(n); /* sources are learned from now on */
    }
    if (!f->nic_added) {
        return 0;
    }
    /*
     * The frame may lie in guest memory, where the guest could change it and
     * we must not. So its head is copied: the copy is judged, and goes on when
     * the frame is recolored. A whole frame is copied only to be kept.
     */
    source.size = iov_size(iov, iovcnt);
    source.head_size = iov_to_buf(iov, iovcnt, 0, head, sizeof(head));
    frame = (hs_frame) {
        .nic = f->nic,
        .direction = to_guest ? HS_TO_GUEST : HS_FROM_GUEST,
        .data = head,
        .size = source.size,
        .vnet_header_size = nf->netdev->vnet_hdr_len,
        .queue = sender->queue_index,
    };
    verdict = hs_mediator_frame_head(n->mediator, &frame, source.head_size,
                                     copy_rest, &source,
                                     g_get_real_time() * 1000, source_mac);
    if (to_guest) {
        hotsnap_nic_queues_look(n);
        n->ops->frame_received(n->opaque);
    }
    if (verdict != HS_PASS) {
        trace_hotsnap_hold(frame.nic, frame.queue, frame.direction,
                           source.size, verdict);
        if (verdict == HS_HOLD_AND_CUT) {
            n->ops->red_frame(n->opaque);
        } else if (verdict == HS_HOLD_AND_RELEASE) {
            hotsnap_forward_released(n);
        }
        return source.size;
    }
    at = frame.vnet_header_size + 6;
    if (at + sizeof(source_mac) <= source.head_size &&
        memcmp(head + at, source_mac, sizeof(source_mac))) {
        memcpy(head + at, source_mac, sizeof(source_mac));
    } else if (!to_guest || !hotsnap_network_stands(n)) {
        return 0;
    }
    forward_patched(f, sender, flags, &source, head);
    return source.size;
}

static void filter_setup(NetFilterState *nf, Error **errp)
{
    FilterHotsnap *f = FILTER_HOTSNAP(nf);
    Object *obj;

    if (!f->member_id) {
        error_setg(errp, "filter-hotsnap needs 'member', the id of a "
                   "hotsnap-member object");
        return;
    }
    obj = object_resolve_path_component(object_get_objects_root(),
                                        f->member_id);
    if (!obj || !object_dynamic_cast(obj, TYPE_HOTSNAP_MEMBER)) {
        error_setg(errp, "There is no hotsnap-member object '%s'",
                   f->member_id);
        return;
    }
    f->restore_queue = qemu_new_net_queue(hotsnap_forward_waiting, f);
    hotsnap_nic_queues_begin(f);
    f->network = &HOTSNAP_MEMBER(obj)->network;
    object_ref(obj);
    QTAILQ_INSERT_TAIL(&f->network->filters, f, next_filter);
}

static void filter_cleanup(NetFilterState *nf)
{
    FilterHotsnap *f = FILTER_HOTSNAP(nf);

    if (!f->network) {
        return;
    }
    qemu_net_queue_flush(f->restore_queue);
    qemu_del_net_queue(f->restore_queue);
    QTAILQ_REMOVE(&f->network->filters, f, next_filter);
    if (f->nic_added) {
        hs_mediator_remove_nic(f->network->mediator, f->nic);
    }
    hotsnap_nic_queues_end(f);
    object_unref(f->network->owner);
    f->network = NULL;
}

/*
 * Without its filter, a NIC's frames would leave uncolored in the middle of
 * an epoch, and be taken for frames sent before the cut; and recorded frames
 * would not be played back. (netdev_del deletes the filter, too, and is
 * refused as well.)
 */
static bool filter_can_be_deleted(UserCreatable *uc)
{
    HotsnapNetwork *n = FILTER_HOTSNAP(uc)->network;

    return !n || !n->ops->busy(n->opaque);
}

static void filter_status_changed(NetFilterState *nf, Error **errp)
{
    HotsnapNetwork *n = FILTER_HOTSNAP(nf)->network;

    if (n->ops->busy(n->opaque)) {
        error_setg(errp, "Turning a filter-hotsnap on or off is not allowed "
                   "during a cluster snapshot or restore; wait for it to end "
                   "or cancel its job");
        nf->on = !nf->on; /* as it was; this is called after the change */
    }
}

static char *filter_get_member(Object *obj, Error **errp)
{
    return g_strdup(FILTER_HOTSNAP(obj)->member_id);
}

static void filter_set_member(Object *obj, const char *value, Error **errp)
{
    FilterHotsnap *f = FILTER_HOTSNAP(obj);

    if (f->network) {
        error_setg(errp, "The member of a filter cannot be changed");
        return;
    }
    g_free(f->member_id);
    f->member_id = g_strdup(value);
}

static void filter_finalize(Object *obj)
{
    g_free(FILTER_HOTSNAP(obj)->member_id);
}

static void filter_class_init(ObjectClass *oc, void *data)
{
    UserCreatableClass *ucc = USER_CREATABLE_CLASS(oc);
    NetFilterClass *nfc = NETFILTER_CLASS(oc);

    ucc->can_be_deleted = filter_can_be_deleted;
    nfc->several_queues = true;
    nfc->setup = filter_setup;
    nfc->cleanup = filter_cleanup;
    nfc->receive_iov = filter_receive_iov;
    nfc->status_changed = filter_status_changed;
    object_class_property_add_str(oc, "member", filter_get_member,
                                  filter_set_member);
}

static const TypeInfo filter_hotsnap_info = {
    .name = TYPE_FILTER_HOTSNAP,
    .parent = TYPE_NETFILTER,
    .class_init = filter_class_init,
    .instance_size = sizeof(FilterHotsnap),
    .instance_finalize = filter_finalize,
};

static void filter_hotsnap_register(void)
{
    type_register_static(&filter_hotsnap_info);
}

type_init(filter_hotsnap_register);
