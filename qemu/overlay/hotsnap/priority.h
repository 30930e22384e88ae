/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Real-time priority for the few threads that a cut waits for. Main loop;
 * @raised is an array of thread ids.
 */
#ifndef HOTSNAP_PRIORITY_H
#define HOTSNAP_PRIORITY_H

void hotsnap_priority_raise(GArray *raised, int tid);
void hotsnap_priority_raise_vcpus(GArray *raised);
void hotsnap_priority_lower(GArray *raised);

#endif
