/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Frames that a mediator's filter sends on by itself: held, recorded, or
 * recolored ones.
 */
#ifndef HOTSNAP_PARTS_FORWARD_H
#define HOTSNAP_PARTS_FORWARD_H

#include "network.h"

/* Sends a frame on as if it had just passed @f. */
void hotsnap_forward(FilterHotsnap *f, NetClientState *sender, unsigned flags,
                     const struct iovec *iov, int iovcnt);
void hotsnap_forward_frame(FilterHotsnap *f, const hs_frame *frame);

/* Delivers the frames that the mediator releases, in order. */
void hotsnap_forward_released(HotsnapNetwork *n);

/* Keeps a frame to the guest until hotsnap_playback_end(). */
ssize_t hotsnap_forward_later(FilterHotsnap *f, NetClientState *sender,
                              unsigned flags, const struct iovec *iov,
                              int iovcnt);
/* Delivers one of those; a NetQueueDeliverFunc. */
ssize_t hotsnap_forward_waiting(NetClientState *sender, unsigned flags,
                                const struct iovec *iov, int iovcnt,
                                void *opaque);

#endif
