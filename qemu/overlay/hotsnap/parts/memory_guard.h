/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Devices that change guest memory behind QEMU's back.
 */
#ifndef HOTSNAP_PARTS_MEMORY_GUARD_H
#define HOTSNAP_PARTS_MEMORY_GUARD_H

/* Main loop: false, with @errp set, if there is one. */
bool hotsnap_memory_guard_check(Error **errp);

#endif
