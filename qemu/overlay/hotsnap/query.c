/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * query-hotsnap.
 */
#include "qemu/osdep.h"
#include "internal.h"
#include "qapi/clone-visitor.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-hotsnap.h"
#include "qapi/qapi-visit-hotsnap.h"

static HotsnapSnapshotInfo *snapshot_info(HotsnapEpoch *e)
{
    HotsnapSnapshotInfo *info;
    HotsnapPauseStepList **tail;
    hs_snapshot_stats s = { .struct_size = sizeof(s) };

    if (!e->snapshot) {
        return NULL;
    }
    hs_snapshot_get_stats(e->snapshot, &s);
    info = g_new0(HotsnapSnapshotInfo, 1);
    info->tag = g_strdup(e->tag);
    info->epoch = e->number;
    info->engine = g_strdup(s.engine);
    info->pages = g_new0(HotsnapPages, 1);
    info->pages->total = s.pages.total;
    info->pages->zero = s.pages.zero;
    info->pages->background = s.pages.background;
    info->pages->guest_write = s.pages.guest_write;
    info->pages->dma_write = s.pages.dma_write;
    info->pages->kvm_write = s.pages.kvm_write;
    info->pages->neighbors = s.pages.neighbors;
    info->bytes_total = s.bytes_total;
    info->bytes_done = s.bytes_done;
    info->bandwidth = s.bandwidth;
    info->faults = s.faults;
    info->fault_max_us = s.fault_us_max;
    info->staging_full_waits = s.staging_full_waits;
    info->arm_us = s.arm_us;
    info->cut_pages = s.cut_pages;
    info->pause_us = (e->pause.end_ns - e->pause.begin_ns) / 1000;
    tail = &info->pause_steps;
    for (unsigned i = 0; i < e->pause.count; i++) {
        HotsnapPauseStep *step = g_new0(HotsnapPauseStep, 1);

        step->name = g_strdup(e->pause.step[i].name);
        step->us = e->pause.step[i].us;
        QAPI_LIST_APPEND(tail, step);
    }
    return info;
}

static HotsnapMediatorInfo *mediator_info(HotsnapMember *m)
{
    HotsnapMediatorInfo *info = g_new0(HotsnapMediatorInfo, 1);
    hs_mediator_stats s = { .struct_size = sizeof(s) };

    hs_mediator_get_stats(m->mediator, &s);
    info->white_sent = s.white_sent;
    info->white_received = s.white_received;
    info->on_the_fly = s.on_the_fly;
    info->held = s.held_to_guest;
    info->held_broadcasts = s.held_from_guest;
    info->recorded = s.recorded;
    info->unrecorded = s.unrecorded;
    info->lost = s.lost;
    info->dropped = s.dropped;
    return info;
}

/* The epoch ends: what was learned of it stays visible. */
void hotsnap_query_update(HotsnapEpoch *e)
{
    HotsnapSnapshotInfo *info = snapshot_info(e);

    if (info) {
        qapi_free_HotsnapSnapshotInfo(e->member->last);
        e->member->last = info;
    }
}

HotsnapInfo *qmp_query_hotsnap(Error **errp)
{
    HotsnapMember *m = hotsnap_member(NULL);
    HotsnapInfo *info = g_new0(HotsnapInfo, 1);

    if (!m) {
        info->role = g_strdup("none");
        return info;
    }
    info->name = g_strdup(m->name);
    info->address = g_strdup(m->listen);
    info->phase = m->phase;
    info->role = g_strdup(m->role);
    info->epoch = m->epoch_number;
    info->error = g_strdup(m->error);
    if (m->epoch) {
        info->snapshot = snapshot_info(m->epoch);
    } else if (m->last) {
        info->snapshot = QAPI_CLONE(HotsnapSnapshotInfo, m->last);
    }
    if (!QTAILQ_EMPTY(&m->filters)) {
        info->mediator = mediator_info(m);
    }
    return info;
}

void qmp_hotsnap_set_bandwidth(uint64_t bandwidth, Error **errp)
{
    HotsnapMember *m = hotsnap_member(errp);

    if (!m) {
        return;
    }
    if (!m->epoch) {
        error_setg(errp, "No snapshot is in progress; a snapshot takes its "
                   "limit from the 'bandwidth' of hotsnap-cluster");
        return;
    }
    m->epoch->bandwidth = bandwidth;
    if (m->epoch->snapshot) {
        hs_snapshot_set_bandwidth(m->epoch->snapshot, bandwidth);
    } /* else it is still being prepared, and begins with this limit */
}
