/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * HotSnap's interface to the block layer. A header of its own: most files that
 * include system/hotsnap.h know nothing of disks.
 */
#ifndef SYSTEM_HOTSNAP_DRAIN_H
#define SYSTEM_HOTSNAP_DRAIN_H

/*
 * Called by blk_drain() and blk_drain_all(), which wait until requests have
 * completed, before they drain.  Set while a drained section lasts in which
 * the guest runs: a request that waits for its end would look complete.  It
 * ends the section.  Defined in block/block-backend.c, which tools have, too.
 */
extern void (*blk_drain_hook)(void);

#endif
