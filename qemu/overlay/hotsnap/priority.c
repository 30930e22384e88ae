/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A pause of three milliseconds on a host whose processors are all taken by
 * vCPUs becomes one of thirty when the main loop is preempted in it, and the
 * members' cuts lie apart by as much when it is woken late. So from ARM until
 * the VM runs again the main loop and the member's iothread come first. The
 * vCPUs come first from the moment at which a cut is due, and run guest code no
 * longer than they need to notice that: one that lost its processor while it
 * has the BQL would keep the main loop waiting.
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
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include <sched.h>

struct HotsnapPriority {
    QemuMutex lock; /* taken last, and while nothing is waited for */
    bool on;
    GArray *vcpus;  /* thread ids; the guard allows no other ones meanwhile */
    GArray *raised;
};

HotsnapPriority *hotsnap_priority_new(void)
{
    HotsnapPriority *p = g_new0(HotsnapPriority, 1);

    qemu_mutex_init(&p->lock);
    p->vcpus = g_array_new(false, false, sizeof(int));
    p->raised = g_array_new(false, false, sizeof(int));
    return p;
}

void hotsnap_priority_free(HotsnapPriority *p)
{
    if (!p) {
        return;
    }
    hotsnap_priority_end(p);
    g_array_unref(p->vcpus);
    g_array_unref(p->raised);
    qemu_mutex_destroy(&p->lock);
    g_free(p);
}

static void raise_thread(HotsnapPriority *p, int tid)
{
    /* The least real-time priority; threads that it starts have none. */
    struct sched_param param = { .sched_priority = 1 };
    int policy = sched_getscheduler(tid);

    if (policy >= 0 && (policy & ~SCHED_RESET_ON_FORK) == SCHED_OTHER &&
        !sched_setscheduler(tid, SCHED_RR | SCHED_RESET_ON_FORK, &param)) {
        g_array_append_val(p->raised, tid);
    }
}

void hotsnap_priority_armed(HotsnapPriority *p, int iothread_tid,
                            bool stops_vcpus)
{
    CPUState *cpu;

    QEMU_LOCK_GUARD(&p->lock);
    p->on = true;
    CPU_FOREACH(cpu) {
        int tid = cpu->thread_id;

        if (stops_vcpus) {
            g_array_append_val(p->vcpus, tid);
        }
    }
    raise_thread(p, qemu_get_thread_id());
    if (iothread_tid) {
        raise_thread(p, iothread_tid);
    }
}

void hotsnap_priority_cut_is_due(HotsnapPriority *p)
{
    QEMU_LOCK_GUARD(&p->lock);

    for (guint i = 0; p->on && i < p->vcpus->len; i++) {
        raise_thread(p, g_array_index(p->vcpus, int, i));
    }
}

void hotsnap_priority_end(HotsnapPriority *p)
{
    struct sched_param param = {};

    QEMU_LOCK_GUARD(&p->lock);
    p->on = false;
    for (guint i = 0; i < p->raised->len; i++) {
        int tid = g_array_index(p->raised, int, i);

        /* Not every caller may clear the flag, which does no harm. */
        if (sched_setscheduler(tid, SCHED_OTHER, &param)) {
            sched_setscheduler(tid, SCHED_OTHER | SCHED_RESET_ON_FORK, &param);
        }
    }
    g_array_set_size(p->raised, 0);
}
