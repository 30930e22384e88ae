/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which disks the VM writes to, and which of them can be in a snapshot.
 */
#ifndef HOTSNAP_PARTS_DISK_LIST_H
#define HOTSNAP_PARTS_DISK_LIST_H

#include "disk.h"

/*
 * Main loop: fills the list, and blocks commands that would change a disk in
 * it. Looks at no file.
 */
bool hotsnap_disk_list_fill(HotsnapDisks *disks, Error **errp);

/* Worker: finds each disk's file, and refuses those that cannot be used. */
bool hotsnap_disk_list_find_files(HotsnapDisks *disks, Error **errp);

/* Main loop, in the pause: are these still the VM's disks? */
bool hotsnap_disk_list_holds(HotsnapDisks *disks, Error **errp);

#endif
