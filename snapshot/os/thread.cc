// SPDX-License-Identifier: GPL-2.0-or-later
#include "os/thread.h"

#include <csignal>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

namespace hotsnap::memory {

std::thread spawn(const char *name, std::function<void()> body) {
    // A thread inherits the mask of its creator: block here, so that there is no moment in which
    // the new thread could take a signal meant for the program (QEMU: SIGUSR1, SIGALRM, SIGINT).
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        std::thread thread(std::move(body));
        pthread_setname_np(thread.native_handle(), name);
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        return thread;
    } catch (...) {
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        throw;
    }
}

void ask_for_priority() {
    constexpr int niceness = -15;
    setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), niceness);
}

void give_way() {
    setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), 5);
}

// Niceness would not do: it counts within a cgroup or session (autogroup) only.
void RealTime::begin() {
    const sched_param least{.sched_priority = 1};
    if (!on_ && (sched_getscheduler(0) & ~SCHED_RESET_ON_FORK) == SCHED_OTHER) {
        on_ = sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &least) == 0;
    }
}

void RealTime::end() {
    const sched_param none{.sched_priority = 0};
    // Not every caller may clear the flag, which does no harm.
    if (on_ && sched_setscheduler(0, SCHED_OTHER, &none) != 0) {
        sched_setscheduler(0, SCHED_OTHER | SCHED_RESET_ON_FORK, &none);
    }
    on_ = false;
}

void ask_for_exact_timers() {
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
}

} // namespace hotsnap::memory
