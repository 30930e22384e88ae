/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Disk requests of the guest that are held while the VM runs on. All functions
 * are for the main loop, or another thread with the BQL that polls the main
 * loop's context.
 */
#ifndef HOTSNAP_HOLD_H
#define HOTSNAP_HOLD_H

#include <hotsnap/member.h>

typedef struct HotsnapHoldOps {
    /*
     * The hold has ended for @reason, and not by hotsnap_hold_end(). May come
     * from within any code that drains disks: do no more than post it.
     */
    void (*ended)(void *opaque, const char *reason);
} HotsnapHoldOps;

/*
 * Waits for the requests in flight, and lets no new one begin. True: all are
 * held, for @longest_us from the call at the most. After an error none is.
 * Notes the step "drain". One hold at a time.
 */
bool hotsnap_hold_begin(hs_pause *p, uint64_t longest_us,
                        const HotsnapHoldOps *ops, void *opaque,
                        Error **errp);

/* Whether they have been held since, and still are. */
bool hotsnap_hold_lasts(Error **errp);

/* The requests go on; nothing if they do already. */
void hotsnap_hold_end(void);

#endif
