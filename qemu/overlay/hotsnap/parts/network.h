/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The NICs' packet mediators, for the files of this part. All code runs in
 * the main loop under the BQL, as netfilters do.
 */
#ifndef HOTSNAP_PARTS_NETWORK_H
#define HOTSNAP_PARTS_NETWORK_H

#include "net/filter.h"
#include "net/queue.h"
#include "../part.h"
#include "qemu/queue.h"

#include <hotsnap/mediator.h>

#define TYPE_FILTER_HOTSNAP "filter-hotsnap"
OBJECT_DECLARE_SIMPLE_TYPE(FilterHotsnap, FILTER_HOTSNAP)

typedef struct HotsnapNicQueue HotsnapNicQueue;

typedef struct HotsnapNetworkOps {
    /* The cut is due as soon as possible; called in the middle of a read. */
    void (*red_frame)(void *opaque);
    /* A frame to the guest has come; likewise. */
    void (*frame_received)(void *opaque);
    /* A snapshot or restore is on: filters must stay as they are. */
    bool (*busy)(void *opaque);
} HotsnapNetworkOps;

struct HotsnapNetwork {
    Object *owner;           /* the member; filters keep a reference */
    hs_mediator *mediator;
    QTAILQ_HEAD(, FilterHotsnap) filters;
    bool loading;            /* frames to the guest wait for the playback */
    const HotsnapRun *run;   /* NULL: no snapshot is on */
    const HotsnapNetworkOps *ops;
    void *opaque;
};

struct FilterHotsnap {
    NetFilterState parent_obj;

    char *member_id;
    HotsnapNetwork *network; /* NULL: not set up */
    uint32_t nic;
    bool nic_added;
    HotsnapNicQueue *queues; /* nic_queue.h */
    unsigned queue_count;
    NetQueue *restore_queue; /* frames to the guest until playback is done */
    size_t undelivered_bytes;
    QTAILQ_ENTRY(FilterHotsnap) next_filter;
};

bool hotsnap_network_init(HotsnapNetwork *n, Object *owner, Error **errp);
void hotsnap_network_clear(HotsnapNetwork *n);
void hotsnap_network_set_ops(HotsnapNetwork *n, const HotsnapNetworkOps *ops,
                             void *opaque);

/*
 * The VM stands still in a snapshot. QEMU lets no frame pass then, but those of
 * the other members must be seen and recorded, and ours must be told where the
 * channels end: frames to the guest are taken and wait, frames of the mediator
 * leave.
 */
static inline bool hotsnap_network_stands(const HotsnapNetwork *n)
{
    return n->run && n->run->stands;
}

/* No NIC has a mediator. */
bool hotsnap_network_is_unused(HotsnapNetwork *n);

/*
 * A filter is made before the NIC, so MACs are looked up when a run begins.
 * NICs are counted in the filters' order, from 0 each time: the channel's
 * record says by number which NIC a frame was for, to the QEMU that restores
 * it.
 */
void hotsnap_network_identify(HotsnapNetwork *n);
FilterHotsnap *hotsnap_network_filter(HotsnapNetwork *n, uint32_t nic);

HotsnapMediatorInfo *hotsnap_network_info(HotsnapNetwork *n);

extern const HotsnapPart hotsnap_network_part;

#endif
