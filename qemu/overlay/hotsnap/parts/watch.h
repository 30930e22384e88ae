/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest memory that vanishes or changes its size during a snapshot.
 */
#ifndef HOTSNAP_PARTS_WATCH_H
#define HOTSNAP_PARTS_WATCH_H

/*
 * Main loop. @vanishes is called, with the BQL held, when memory that exists
 * now is about to be unmapped: no thread may use it once @vanishes returns.
 */
void hotsnap_watch_begin(void (*vanishes)(void *opaque), void *opaque);
void hotsnap_watch_end(void); /* again, too */

/* Main loop: is the guest's memory as it was at hotsnap_watch_begin()? */
bool hotsnap_watch_holds(Error **errp);

#endif
