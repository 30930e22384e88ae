/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vm_stop() waits until every vCPU has left the guest. Under TCG a vCPU that
 * touches a page which cannot be loaded does not leave it before the page
 * comes; neither does it run. So whoever does not stop within a while counts
 * as stopped: when its page comes, it ends its instruction, and sees the
 * request to stop at the end of its translation block.
 *
 * Disks are neither drained nor flushed, since a request may wait for such a
 * page, too. Devices are told of the stop, and some drain their own requests
 * then. If one of these waits for such a page, the main loop waits with it,
 * until the page comes: the library tries once a second.
 */
#include "qemu/osdep.h"
#include "hw/core/cpu.h"
#include "lazy_halt.h"
#include "qapi/qapi-events-run-state.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "system/cpu-timers.h"
#include "system/cpus.h"
#include "system/runstate.h"

#define PATIENCE_MS 300

static bool all_stopped(void)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        if (!cpu->stopped) {
            return false;
        }
    }
    return true;
}

static void ask_to_stop(void)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        cpu->stop = true;
        qemu_cpu_kick(cpu);
    }
}

void hotsnap_lazy_halt(void)
{
    if (!runstate_is_running()) {
        return;
    }
    runstate_set(RUN_STATE_IO_ERROR);
    cpu_disable_ticks();
    qemu_clock_enable(QEMU_CLOCK_VIRTUAL, false);
    ask_to_stop();
    for (int ms = 0; ms < PATIENCE_MS && !all_stopped(); ms++) {
        bql_unlock();
        g_usleep(1000);
        bql_lock();
        ask_to_stop();
    }
    vm_state_notify(false, RUN_STATE_IO_ERROR);
    qapi_event_send_stop();
}
