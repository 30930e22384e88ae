/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's memory and the devices' state.
 */
#ifndef HOTSNAP_PARTS_MEMORY_H
#define HOTSNAP_PARTS_MEMORY_H

#include "../part.h"

extern const HotsnapPart hotsnap_memory_part;

/* Main loop. Changes the limit of the background copy; bytes/s, 0: none. */
void hotsnap_memory_set_bandwidth(void *part, uint64_t bandwidth);
void hotsnap_memory_set_finish(void *part, uint64_t finish_us);

/* Main loop: the result of a precopy that has ended, and bytes left. */
void hotsnap_memory_precopied(void *part, bool *converged, uint64_t *left);

/* Main loop: how far the background copy is. */
void hotsnap_memory_progress(void *part, uint64_t *done, uint64_t *total,
                             uint64_t *expected_us);

#endif
