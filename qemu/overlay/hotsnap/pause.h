/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The transient snapshot: the steps of the pause, or of the hold.
 */
#ifndef HOTSNAP_PAUSE_H
#define HOTSNAP_PAUSE_H

#include "part.h"

/*
 * Main loop, under the BQL. Pauses the VM, takes the instant of each part,
 * resumes; or, with mode stop-and-copy, leaves that to hotsnap_pause_end().
 * After an error the VM runs again, and the run must be undone.
 */
bool hotsnap_pause_and_cut(HotsnapRun *r, const HotsnapPart *const *parts,
                           Error **errp);

/*
 * The same for a run without memory: vCPUs run on, and disk requests are held
 * while each part takes its instant.
 */
bool hotsnap_hold_and_cut(HotsnapRun *r, const HotsnapPart *const *parts,
                          Error **errp);

/* Within a hold (hold.h), which it ends, also after an error. */
bool hotsnap_cut_in_hold(HotsnapRun *r, const HotsnapPart *const *parts,
                         Error **errp);

/* Main loop: a VM that still stands after its cut runs again. */
void hotsnap_pause_end(HotsnapRun *r);

#endif
