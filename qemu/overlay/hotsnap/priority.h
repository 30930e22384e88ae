/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Real-time priority for the threads that a cut waits for, from the end of ARM
 * until the VM runs again.
 */
#ifndef HOTSNAP_PRIORITY_H
#define HOTSNAP_PRIORITY_H

typedef struct HotsnapPriority HotsnapPriority;

HotsnapPriority *hotsnap_priority_new(void);
/* NULL: nothing to do. Ends it, too. */
void hotsnap_priority_free(HotsnapPriority *p);

/*
 * Main loop: this thread and @iothread_tid, if not 0, come first from now on.
 * @stops_vcpus: the cut will do so; else vCPUs are left alone.
 */
void hotsnap_priority_armed(HotsnapPriority *p, int iothread_tid,
                            bool stops_vcpus);

/*
 * Any thread: so do the vCPUs, since they will be stopped at once. Before the
 * call above, and after the end, nothing happens.
 */
void hotsnap_priority_cut_is_due(HotsnapPriority *p);

/* Main loop: for all of them everything is as it was before. */
void hotsnap_priority_end(HotsnapPriority *p);

#endif
