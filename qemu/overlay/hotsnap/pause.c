/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The transient snapshot: what happens while the VM is paused.
 *
 * Runs in the main loop under the BQL, which also serializes it with the
 * packet mediator. Order matters:
 *
 *   stop       vCPUs stand still, devices know (queued packets are flushed).
 *   drain      in-flight disk requests complete; no new ones start. From here
 *              on nothing writes to guest memory: vCPUs stopped, block layer
 *              quiescent (iothreads included), network and timers behind the
 *              BQL. They must complete, not wait: a request that a device has
 *              taken from its queue is in no device's saved state.
 *   devices    state to a buffer. Before "protect", since saving may touch
 *              guest memory.
 *   protect    the memory's instant. Engine kvm: also what it cannot trap is
 *              saved now, device memory and open DMA mappings (dma.c).
 *   disks      writes go to the overlays from here on: the disks' instant,
 *              the same one, as nothing ran in between.
 *   color      frames are red from here on: the network's instant.
 *   undrain, resume
 *
 * No step waits for storage to sync: flushes are done before and after.
 */
#include "qemu/osdep.h"
#include "internal.h"
#include "migration/global_state.h"
#include "qapi/error.h"
#include "system/runstate.h"
#include "trace.h"

typedef struct PauseClock {
    HotsnapPause *pause;
    int64_t last_ns;
} PauseClock;

static void step_done(PauseClock *clock, const char *name)
{
    HotsnapPause *p = clock->pause;
    int64_t now = hotsnap_now_ns();

    assert(p->count < HOTSNAP_PAUSE_STEPS);
    p->step[p->count].name = name;
    p->step[p->count].us = (now - clock->last_ns) / 1000;
    clock->last_ns = now;
    p->count++;
}

/* Test hook: the same memory and devices once more, written at once. */
static bool write_dump(HotsnapEpoch *e, Error **errp)
{
    g_autofree char *path = g_build_filename(e->folder, "state.dump", NULL);
    char *error = NULL;
    bool ok;
    int fd;

    if (!hs_snapshot_dump(e->snapshot, path, &error)) {
        error_setg(errp, "%s", error);
        hs_string_free(error);
        return false;
    }
    fd = qemu_open(path, O_WRONLY | O_APPEND, errp);
    if (fd < 0) {
        return false;
    }
    ok = qemu_write_full(fd, e->tail->data, e->tail->len) == e->tail->len;
    if (!ok) {
        error_setg_errno(errp, errno, "Cannot write '%s'", path);
    }
    close(fd);
    return ok;
}

static bool traps_with_kvm(HotsnapEpoch *e)
{
    hs_snapshot_stats s = { .struct_size = sizeof(s) };

    hs_snapshot_get_stats(e->snapshot, &s);
    return !strcmp(s.engine, HotsnapEngine_str(HOTSNAP_ENGINE_KVM));
}

bool hotsnap_pause_and_cut(HotsnapEpoch *e, Error **errp)
{
    HotsnapMember *m = e->member;
    bool was_live = runstate_is_live(runstate_get());
    PauseClock clock = { .pause = &e->pause };
    g_autoptr(GArray) vcpus = g_array_new(false, false, sizeof(int));
    char *error = NULL;
    bool ok;

    e->pause.count = 0;
    e->pause.begin_ns = clock.last_ns = hotsnap_now_ns();
    global_state_store();
    hotsnap_priority_raise_vcpus(vcpus);
    vm_pause_unflushed(RUN_STATE_SAVE_VM);
    hotsnap_priority_lower(vcpus);
    step_done(&clock, "stop");

    bdrv_drain_all_begin();
    step_done(&clock, "drain");

    ok = hotsnap_vmstate_save_devices(e, errp);
    step_done(&clock, "devices");

    if (ok) {
        ok = hs_snapshot_cut(e->snapshot, &error);
        if (!ok) {
            error_setg(errp, "%s", error);
            hs_string_free(error);
        } else if (traps_with_kvm(e)) {
            hotsnap_dma_arm(e->snapshot);
        }
    }
    step_done(&clock, "protect");

    if (ok && e->dump) {
        ok = write_dump(e, errp);
        step_done(&clock, "dump");
    }

    if (ok) {
        ok = hotsnap_disks_switch(e, errp);
    }
    step_done(&clock, "disks");

    if (ok) {
        hs_mediator_cut(m->mediator);
    }
    step_done(&clock, "color");

    bdrv_drain_all_end();
    step_done(&clock, "undrain");

    if (was_live) {
        vm_start();
    }
    step_done(&clock, "resume");
    e->pause.end_ns = clock.last_ns;
    hotsnap_priority_lower(e->raised);

    for (unsigned i = 0; i < e->pause.count; i++) {
        trace_hotsnap_pause_step(e->pause.step[i].name, e->pause.step[i].us);
    }
    return ok;
}
