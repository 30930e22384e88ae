/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Redirect-on-write disks.
 */
#ifndef HOTSNAP_PARTS_DISKS_H
#define HOTSNAP_PARTS_DISKS_H

#include "../part.h"

extern const HotsnapPart hotsnap_disks_part;

#endif
