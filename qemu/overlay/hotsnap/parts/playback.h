/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The recorded channels of a restore, and the frames that wait for them.
 */
#ifndef HOTSNAP_PARTS_PLAYBACK_H
#define HOTSNAP_PARTS_PLAYBACK_H

#include "network.h"

/* From now on frames to the guest wait. */
void hotsnap_playback_begin(HotsnapNetwork *n);

/* Can all recorded frames be played back here? */
bool hotsnap_playback_check(HotsnapNetwork *n, const char *pcap,
                            const char *vnet, Error **errp);

/*
 * Before any member runs: switches learn where the member's addresses are, so
 * that no frame of another one goes to the place where they were later.
 */
void hotsnap_playback_announce(HotsnapNetwork *n, hs_playback *p);

/* Returns how many frames were played. */
size_t hotsnap_playback_play(HotsnapNetwork *n, hs_playback *p);

/* Waiting frames go through, and later ones at once. */
void hotsnap_playback_end(HotsnapNetwork *n);

#endif
