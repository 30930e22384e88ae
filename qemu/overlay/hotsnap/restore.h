/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A member's part in a restore. Main loop.
 */
#ifndef HOTSNAP_RESTORE_H
#define HOTSNAP_RESTORE_H

#include "parts/network.h"
#include "qapi/qapi-types-hotsnap.h"
#include "qobject/qdict.h"

typedef struct HotsnapRestore HotsnapRestore;

/*
 * Begins to load the state of @member in @bundle; NULL after an error. From
 * now on frames to the guest wait. @loaded is called when the VM is ready to
 * start, or with an error, which it takes; not after hotsnap_restore_end().
 * Memory comes with the state, or on demand (lazy.h): @options.
 */
HotsnapRestore *hotsnap_restore_begin(HotsnapNetwork *network,
                                      HotsnapQueue *main,
                                      const char *bundle, const char *member,
                                      const HotsnapRestoreOptions *options,
                                      void (*loaded)(void *opaque,
                                                     Error *err),
                                      void *opaque, Error **errp);

/*
 * Starts the VM, plays the channel back, lets waiting frames through, frees
 * @r. Returns {"start_ns","played"}.
 */
QDict *hotsnap_restore_start(HotsnapRestore *r);

/* Without starting: lets waiting frames through, frees @r. */
void hotsnap_restore_end(HotsnapRestore *r);

/*
 * For when another member did not start, or may not have started. A part of
 * the cluster must not run on without the rest.
 */
void hotsnap_restore_stop_vm(void);

/* A load is under way, also after hotsnap_restore_end(), which ends none. */
bool hotsnap_restore_loading(void);

#endif
