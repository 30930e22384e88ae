/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "forward.h"
#include "net/net.h"
#include "nic_queue.h"
#include "playback.h"
#include "qapi/error.h"

bool hotsnap_playback_check(HotsnapNetwork *n, const char *pcap,
                            const char *vnet, Error **errp)
{
    char *error = NULL;
    hs_playback *p = hs_playback_open(pcap, vnet, &error);
    hs_frame frame;
    bool ok = true;

    if (!p) {
        error_setg(errp, "%s", error);
        hs_string_free(error);
        return false;
    }
    while (ok && hs_playback_next(p, &frame)) {
        ok = hotsnap_network_filter(n, frame.nic);
    }
    if (!ok) {
        error_setg(errp, "'%s' has frames for NIC number %" PRIu32 ", and this "
                   "VM has no such NIC with a packet mediator; start QEMU "
                   "with the NICs that it was saved with, in their order",
                   pcap, frame.nic);
    }
    hs_playback_free(p);
    return ok;
}

/*
 * Past QEMU's queue of the tap, which keeps all frames until the VM runs.
 * What the tap cannot take now leaves again when the member starts.
 */
static void send_now(NetClientState *netdev, const hs_frame *frame)
{
    struct iovec iov = {
        .iov_base = (void *)frame->data, .iov_len = frame->size
    };

    if (netdev->link_down) {
        return;
    }
    if (netdev->info->receive_iov) {
        netdev->info->receive_iov(netdev, &iov, 1);
    } else if (netdev->info->receive) {
        netdev->info->receive(netdev, frame->data, frame->size);
    }
}

void hotsnap_playback_announce(HotsnapNetwork *n, hs_playback *p)
{
    FilterHotsnap *f;
    hs_frame frame;

    hotsnap_network_identify(n); /* virtio-net headers are as the guest has */
    while (hs_playback_next_announcement(p, &frame)) {
        f = hotsnap_network_filter(n, frame.nic);
        if (f && f->queues[0].netdev) {
            hs_mediator_played(n->mediator, &frame, g_get_real_time() * 1000);
            send_now(f->queues[0].netdev, &frame);
        }
    }
    /* Whoever has a NIC's own address is known now. */
    QTAILQ_FOREACH(f, &n->filters, next_filter) {
        if (f->nic_added && f->queues[0].netdev &&
            hs_mediator_announce_own(n->mediator, f->nic, &frame)) {
            send_now(f->queues[0].netdev, &frame);
        }
    }
}

size_t hotsnap_playback_play(HotsnapNetwork *n, hs_playback *p)
{
    hs_frame frame;
    size_t count = 0;

    hotsnap_nic_queues_ask(n);
    while (hs_playback_next(p, &frame)) {
        FilterHotsnap *f = hotsnap_network_filter(n, frame.nic);

        if (f) {
            hs_mediator_played(n->mediator, &frame, g_get_real_time() * 1000);
            hotsnap_forward_frame(f, &frame);
            count++;
        }
    }
    return count;
}

void hotsnap_playback_begin(HotsnapNetwork *n)
{
    n->loading = true;
    hotsnap_network_identify(n);
}

void hotsnap_playback_end(HotsnapNetwork *n)
{
    FilterHotsnap *f;

    n->loading = false;
    QTAILQ_FOREACH(f, &n->filters, next_filter) {
        qemu_net_queue_flush(f->restore_queue);
    }
}
