/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * While a snapshot runs, migration and the discarding of memory are forbidden.
 * (Hot-plug asks hotsnap_refuses().)
 */
#ifndef HOTSNAP_GUARD_H
#define HOTSNAP_GUARD_H

typedef struct HotsnapGuard {
    Error *migration_blocker;
    bool discard_disabled;
} HotsnapGuard;

/* Main loop: QEMU ends; from now on no snapshot begins. */
void hotsnap_guard_close(void);

/* Main loop: false, with @errp set, after that. */
bool hotsnap_guard_is_open(Error **errp);

/* Main loop: can this VM be saved at all, at this moment? */
bool hotsnap_guard_check(Error **errp);

/* Main loop. hotsnap_guard_leave() is due also after an error. */
bool hotsnap_guard_enter(HotsnapGuard *g, Error **errp);
void hotsnap_guard_leave(HotsnapGuard *g);

#endif
