/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A pause of three milliseconds on a host whose processors are all taken by
 * vCPUs becomes one of thirty when the main loop is preempted in it, and the
 * members' cuts lie apart by as much when it is woken late. So from ARM until
 * the VM runs again the main loop and the member's iothread come first. The
 * vCPUs come first only while they are being stopped, and run guest code no
 * longer than they need to notice that.
 *
 * Nice values would not do: they count within a cgroup or session
 * (autogroup) only, and every VM usually has its own.
 *
 * Where the host does not allow it (RLIMIT_RTPRIO, CAP_SYS_NICE) priorities
 * stay as they are. A thread of another policy than the default one is left
 * alone: the operator chose that policy.
 */
#include "qemu/osdep.h"
#include "hw/core/cpu.h"
#include "priority.h"
#include <sched.h>

void hotsnap_priority_raise(GArray *raised, int tid)
{
    /* The least real-time priority; threads that it starts have none. */
    struct sched_param param = { .sched_priority = 1 };
    int policy = sched_getscheduler(tid);

    if (policy >= 0 && (policy & ~SCHED_RESET_ON_FORK) == SCHED_OTHER &&
        !sched_setscheduler(tid, SCHED_RR | SCHED_RESET_ON_FORK, &param)) {
        g_array_append_val(raised, tid);
    }
}

void hotsnap_priority_raise_vcpus(GArray *raised)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        hotsnap_priority_raise(raised, cpu->thread_id);
    }
}

void hotsnap_priority_lower(GArray *raised)
{
    struct sched_param param = {};

    for (guint i = 0; i < raised->len; i++) {
        /* Not every caller may clear the flag, which does no harm. */
        if (sched_setscheduler(g_array_index(raised, int, i), SCHED_OTHER,
                               &param)) {
            sched_setscheduler(g_array_index(raised, int, i),
                               SCHED_OTHER | SCHED_RESET_ON_FORK, &param);
        }
    }
    g_array_set_size(raised, 0);
}
