/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's share of the memory image: the stream's head, the list of RAM blocks,
 * and the device state.
 */
#ifndef HOTSNAP_PARTS_VMSTATE_H
#define HOTSNAP_PARTS_VMSTATE_H

#include <hotsnap/snapshot.h>

/*
 * Section ids only tie the parts of one section together within a stream;
 * QEMU numbers its own from 0.
 */
#define HOTSNAP_RAM_SECTION_ID 0x48530000
#define HOTSNAP_RAM_VERSION_ID 4

/*
 * Main loop. Magic, version and configuration, as a mapped-ram migration
 * writes them.
 */
GByteArray *hotsnap_vmstate_head(void);
bool hotsnap_vmstate_has_footers(void);

/* Main loop; an array of hs_ram_block. */
GArray *hotsnap_vmstate_blocks(void);

/* Main loop; an array of the vCPUs' thread ids. */
GArray *hotsnap_vmstate_vcpus(void);

/* In the pause: the rest of the stream; NULL after an error. */
GByteArray *hotsnap_vmstate_devices(Error **errp);

#endif
