/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * While a snapshot runs, or memory is loaded on demand, migration and the
 * discarding of memory are forbidden.
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

/*
 * Main loop. hotsnap_guard_leave() is due also after an error. @why: what is
 * in progress, for whoever wants to migrate.
 */
bool hotsnap_guard_enter(HotsnapGuard *g, const char *why, Error **errp);
void hotsnap_guard_leave(HotsnapGuard *g);

/*
 * Main loop: lifts a guard, and puts it up again, both within one turn of the
 * loop. For a snapshot that begins while memory is loaded: it waits for the
 * load, and asks whether anybody else forbids what it needs.
 */
void hotsnap_guard_lift(HotsnapGuard *g);
void hotsnap_guard_put_up(HotsnapGuard *g, const char *why);

#endif
