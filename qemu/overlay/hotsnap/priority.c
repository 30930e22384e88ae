/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Real-time priority for the few threads that a cut waits for.
 *
 * A pause of three milliseconds on a host whose processors are all taken by
 * vCPUs becomes one of thirty when the main loop is preempted in it, and the
 * members' cuts lie apart by as much when it is woken late. So from ARM until
 * the VM runs again the main loop and the member's iothread come first; the
 * vCPUs do while they are being stopped, no longer, and never in guest code
 * for longer than it takes them to notice.
 *
 * Nice values would not do: they count within a cgroup or session
 * (autogroup) only, and every VM usually has its own.
 *
 * Where the host does not allow it (RLIMIT_RTPRIO, CAP_SYS_NICE) all goes on
 * as it is. A thread of another policy than the default one is left alone:
 * someone chose that.
 */
#include "qemu/osdep.h"
#include "internal.h"
#include "hw/core/cpu.h"
#include <sched.h>

static void raise_thread(GArray *raised, int tid)
{
    /* The least real-time priority. What a thread starts has none. */
    struct sched_param param = { .sched_priority = 1 };
    int policy = sched_getscheduler(tid);

    if (policy >= 0 && (policy & ~SCHED_RESET_ON_FORK) == SCHED_OTHER &&
        !sched_setscheduler(tid, SCHED_RR | SCHED_RESET_ON_FORK, &param)) {
        g_array_append_val(raised, tid);
    }
}

void hotsnap_priority_raise_loops(HotsnapMember *m, GArray *raised)
{
    raise_thread(raised, qemu_get_thread_id());
    raise_thread(raised, m->iothread->thread_id);
}

void hotsnap_priority_raise_vcpus(GArray *raised)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        raise_thread(raised, cpu->thread_id);
    }
}

void hotsnap_priority_lower(GArray *raised)
{
    struct sched_param param = {};

    for (guint i = 0; i < raised->len; i++) {
        /* Who may go back may not always clear the flag, which does no harm. */
        if (sched_setscheduler(g_array_index(raised, int, i), SCHED_OTHER,
                               &param)) {
            sched_setscheduler(g_array_index(raised, int, i),
                               SCHED_OTHER | SCHED_RESET_ON_FORK, &param);
        }
    }
    g_array_set_size(raised, 0);
}
