/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The disks of a run that is given up.
 */
#ifndef HOTSNAP_PARTS_DISK_UNDO_H
#define HOTSNAP_PARTS_DISK_UNDO_H

#include "disk.h"

/* In the pause, the disks are drained: takes the overlays off again. */
void hotsnap_disks_switch_back(HotsnapDisks *disks);

/*
 * Main loop. The guest's writes since the cut are in the overlays: they are
 * committed back while the VM runs, then the overlays are removed. That may
 * go on after the run is forgotten.
 */
void hotsnap_disks_undo(HotsnapDisks *disks);

/* Is that going on, for any run? */
bool hotsnap_disks_undoing(void);

#endif
