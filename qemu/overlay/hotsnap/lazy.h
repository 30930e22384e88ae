/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory that is loaded on demand after a restore (hotsnap/restore.h): the VM
 * runs, and its pages come when they are touched, and in the background.
 *
 * Main loop, unless a comment says otherwise. There is one load, or none.
 */
#ifndef HOTSNAP_LAZY_H
#define HOTSNAP_LAZY_H

#include "qapi/qapi-types-hotsnap.h"
#include "queue.h"

/*
 * Before the state is loaded: checks all of the image but its pages, makes
 * memory absent, and begins. After an error with which this VM could not be
 * loaded in full either, that is said.
 */
bool hotsnap_lazy_begin(const char *bundle, const char *member,
                        const HotsnapRestoreOptions *options,
                        HotsnapQueue *main, Error **errp);

/* The state is loaded, or never will be. */
void hotsnap_lazy_state_ended(void);

/* Before the VM starts: false, with @errp set, if a page cannot be loaded. */
bool hotsnap_lazy_check(Error **errp);

/* Whether enough of the working set is there for the VM to start. */
bool hotsnap_lazy_ready(void);

/* The VM starts: what it waits for from now on is learned. */
void hotsnap_lazy_running(void);

/* After it has started: stops it, if a page cannot be loaded. */
void hotsnap_lazy_look(void);

/* Pages are absent. */
bool hotsnap_lazy_loading(void);

/*
 * A thread that does not have the BQL: waits until all is loaded, at full
 * rate. False, with @errp set, when a page cannot be loaded, or *@cancelled
 * becomes true.
 */
bool hotsnap_lazy_finish(const bool *cancelled, Error **errp);

/* False: nothing is being loaded. */
bool hotsnap_lazy_set_bandwidth(uint64_t bandwidth);

/* NULL: there was no load. */
HotsnapMemoryLoadInfo *hotsnap_lazy_info(void);

/* See hotsnap_guard_lift(). */
void hotsnap_lazy_lift_guard(void);
void hotsnap_lazy_put_up_guard(void);

/*
 * QEMU ends. If devices wait for a page that cannot be loaded, it ends here
 * and now, as in a power failure: waiting for them would take for ever.
 */
void hotsnap_lazy_shutdown(void);

#endif
