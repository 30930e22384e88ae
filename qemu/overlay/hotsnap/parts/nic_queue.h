/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The queues of a NIC that has a mediator. Each has a network client of its
 * own, the backend's and the NIC's, and so a chain of filters of its own: a
 * filter-hotsnap is in the chain of queue 0, and has a companion in each of
 * the others, which hands it that queue's frames.
 */
#ifndef HOTSNAP_PARTS_NIC_QUEUE_H
#define HOTSNAP_PARTS_NIC_QUEUE_H

#include "network.h"

struct HotsnapNicQueue {
    FilterHotsnap *filter;
    NetClientState *netdev;
    NetFilterState *place;   /* in the chain of filters; NULL: in none more */
    bool off;                /* see hotsnap_nic_queues_ask() */
    GQueue undelivered[2];   /* sizes of frames in QEMU's queues, by to_guest */
};

void hotsnap_nic_queues_begin(FilterHotsnap *f);
void hotsnap_nic_queues_end(FilterHotsnap *f);

/* The queue that a frame of @sender belongs to, the backend's or the NIC's. */
HotsnapNicQueue *hotsnap_nic_queue(FilterHotsnap *f, NetClientState *sender);

/* The queue that has that filter in its chain; NULL: it is none of ours. */
HotsnapNicQueue *hotsnap_nic_queue_of(NetFilterState *nf);

/*
 * Finds out which queues the guest has turned off: by those no frame can be
 * delivered, to the guest or to the network.
 */
void hotsnap_nic_queues_ask(HotsnapNetwork *n);

/* Tells the mediator which queues are empty, when it waits for that. */
void hotsnap_nic_queues_look(HotsnapNetwork *n);

#endif
