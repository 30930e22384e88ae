/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "forward.h"
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
