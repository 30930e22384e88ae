/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the rest of QEMU needs to know of HotSnap.
 */
#ifndef SYSTEM_HOTSNAP_H
#define SYSTEM_HOTSNAP_H

#ifdef CONFIG_HOTSNAP
/**
 * hotsnap_refuses: whether @what must wait for a snapshot to end
 *
 * True, with @errp set, while a snapshot or restore is in progress.
 * To be called with the BQL held.
 */
bool hotsnap_refuses(Error **errp, const char *what);
#else
static inline bool hotsnap_refuses(Error **errp, const char *what)
{
    return false;
}
#endif

#endif
