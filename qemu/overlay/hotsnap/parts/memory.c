/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memory image is made by the library (hotsnap/snapshot.h); this file
 * calls it, at the right time and in the right thread.
 *
 * Users of the snapshot, and its end:
 *
 *   worker     makes it in prepare(), copies memory before the cut, arms it.
 *              No other task runs beside.
 *   main loop  cuts and starts it, when no task runs that could free it; asks
 *              for its figures with `lock` held.
 *   stopper    aborts it, beside any task. Nothing is freed before the
 *              stopper has been joined (run.c).
 *   vanishes() with the BQL held: waits until nobody is making it, and aborts
 *              it with `abort_lock` held, so that an abort that is under way
 *              in an undo is waited for. It needs no other lock of QEMU's,
 *              nor does any thread that hs_snapshot_abort() waits for.
 *   undo()     takes it from the others (`lock`), aborts it (`abort_lock`),
 *              frees it.
 *
 * Storage may stall for minutes. A thread that writes to a page which is not
 * saved waits as soon as staging is full: vCPUs, and the main loop in the
 * middle of a device's work, with the BQL held. hs_snapshot_abort() lets all
 * of them go on, and it needs nothing of QEMU's.
 */
#include "qemu/osdep.h"
#include "dma.h"
#include "hw/core/cpu.h"
#include "hw/xen/xen.h"
#include "memory.h"
#include "memory_guard.h"
#include "../counters.h"
#include "../lazy.h"
#include "../pause_clock.h"
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "vmstate.h"
#include "watch.h"

#define ARM_MAX_US (10 * 1000 * 1000)

typedef struct HotsnapMemory {
    HotsnapRun *run;
    QemuMutex lock;        /* short: protects the pointer and the limit */
    hs_snapshot *snapshot;
    uint64_t bandwidth;
    QemuMutex abort_lock;  /* long: protects `abortable` */
    hs_snapshot *abortable;
    QemuEvent made;        /* no task is making the snapshot */
    bool finished;         /* atomic: guest memory is used no more */
    GByteArray *tail;      /* device state, taken in the pause */

    /* For the library, about the VM; only while the snapshot is made. */
    hs_snapshot_options options;
    GByteArray *head;
    GArray *blocks, *tids;
    char *image, *sums, *accesses;
} HotsnapMemory;

static uint32_t open_traps(const HotsnapSnapshotOptions *o)
{
    static const uint32_t bits[HOTSNAP_TRAP__MAX] = {
        [HOTSNAP_TRAP_GUEST] = HS_OPEN_TRAP_GUEST,
        [HOTSNAP_TRAP_KVM] = HS_OPEN_TRAP_KVM,
        [HOTSNAP_TRAP_DMA] = HS_OPEN_TRAP_DMA,
    };

    return o->has_x_open_trap ? bits[o->x_open_trap] : 0;
}

static void *memory_begin(HotsnapRun *r, Error **errp)
{
    HotsnapMemory *m;

    if (!hotsnap_memory_guard_check(errp)) {
        return NULL;
    }
    if (xen_mode == XEN_EMULATE && r->options->has_engine &&
        r->options->engine == HOTSNAP_ENGINE_KVM) {
        error_setg(errp, "Emulated Xen keeps pointers into guest memory, "
                   "which engine 'kvm' cannot follow; use engine 'uffd'");
        return NULL;
    }
    m = g_new0(HotsnapMemory, 1);
    m->run = r;
    m->bandwidth = r->options->bandwidth;
    qemu_mutex_init(&m->lock);
    qemu_mutex_init(&m->abort_lock);
    qemu_event_init(&m->made, true);
    return m;
}

/* Library thread. */
static void on_copied(void *opaque)
{
    HotsnapMemory *m = opaque;

    m->run->ops->memory_copied(m->run);
}

/* Library thread. */
static void on_finished(void *opaque, const char *error)
{
    HotsnapMemory *m = opaque;

    /* All is saved, or nothing will be kept. */
    hotsnap_dma_disarm();
    qatomic_set(&m->finished, true);
    m->run->ops->memory_done(m->run, error);
}

/* The BQL is held. */
static void vanishes(void *opaque)
{
    HotsnapMemory *m = opaque;
    Error *err = NULL;

    if (qatomic_read(&m->finished)) {
        return;
    }
    /* The worker may be making it now, and waits for no thread in that. */
    qemu_event_wait(&m->made);
    error_setg(&err, "Guest memory was taken away during the snapshot: a "
               "device was unplugged, or a memory backend deleted");
    hotsnap_run_cancel(m->run, error_get_pretty(err));
    WITH_QEMU_LOCK_GUARD(&m->abort_lock) {
        if (m->abortable) {
            hs_snapshot_abort(m->abortable, error_get_pretty(err));
        }
    }
    m->run->ops->failed(m->run, err);
}

/* Main loop. All that is read here stays the same while a run is on. */
static void plan_in_main(void *opaque)
{
    HotsnapMemory *m = opaque;
    const HotsnapSnapshotOptions *o = m->run->options;

    qemu_event_reset(&m->made);
    m->tids = hotsnap_vmstate_vcpus();
    m->head = hotsnap_vmstate_head();
    m->blocks = hotsnap_vmstate_blocks();
    m->image = g_build_filename(m->run->folder, "state", NULL);
    m->sums = g_build_filename(m->run->folder, "state.sums", NULL);
    m->accesses = g_build_filename(m->run->folder, "access", NULL);

    hs_snapshot_options_init(&m->options);
    m->options.engine = HotsnapEngine_str(o->has_engine ? o->engine
                                                  : HOTSNAP_ENGINE_AUTO);
    m->options.image_path = m->image;
    m->options.sums_path = m->sums;
    m->options.access_path = m->accesses;
    m->options.stream_head = m->head->data;
    m->options.stream_head_size = m->head->len;
    m->options.section_footer = hotsnap_vmstate_has_footers();
    m->options.ram_section_id = HOTSNAP_RAM_SECTION_ID;
    m->options.ram_version_id = HOTSNAP_RAM_VERSION_ID;
    m->options.precopy = hotsnap_run_mode(m->run) == HOTSNAP_MODE_PRECOPY;
    m->options.vcpu_tids = (const int *)m->tids->data;
    m->options.vcpu_tid_count = m->tids->len;
    m->options.on_finished = on_finished;
    m->options.on_copied = on_copied;
    m->options.opaque = m;
    m->options.kvm_vm_fd = xen_mode == XEN_EMULATE ? -1
                                                   : hotsnap_kvm_vm_fd();
    m->options.x_open_traps = open_traps(o);
    hotsnap_watch_begin(vanishes, m);
}

static void plan_clear(HotsnapMemory *m)
{
    g_clear_pointer(&m->tids, g_array_unref);
    g_clear_pointer(&m->blocks, g_array_unref);
    g_clear_pointer(&m->head, g_byte_array_unref);
    g_clear_pointer(&m->image, g_free);
    g_clear_pointer(&m->sums, g_free);
    g_clear_pointer(&m->accesses, g_free);
}

/*
 * Slow: hs_snapshot_new() creates files, and touches every page of the staging
 * buffer and of the sums. RAM blocks stay where they are: a thread that takes
 * one away waits until this is done (vanishes()).
 */
static bool memory_prepare(void *opaque, Error **errp)
{
    HotsnapMemory *m = opaque;
    char *error = NULL;
    hs_snapshot *s;

    /* What is not loaded has no content that could be saved. */
    if (!hotsnap_lazy_finish(&m->run->cancelled, errp)) {
        return false;
    }
    hotsnap_queue_call(m->run->main, plan_in_main, m);
    s = hs_snapshot_new(&m->options, (hs_ram_block *)m->blocks->data,
                        m->blocks->len, &error);
    plan_clear(m);
    if (s) {
        WITH_QEMU_LOCK_GUARD(&m->abort_lock) {
            m->abortable = s;
        }
        WITH_QEMU_LOCK_GUARD(&m->lock) {
            m->snapshot = s;
            hs_snapshot_set_bandwidth(s, m->bandwidth);
        }
        /* Pairs with memory_stop(): it sees the snapshot, or we see this. */
        if (qatomic_read(&m->run->cancelled)) {
            hs_snapshot_abort(s, "cancelled");
        }
    } else {
        error_setg(errp, "%s", error);
        hs_string_free(error);
    }
    qemu_event_set(&m->made);
    return s;
}

static bool memory_precopy(void *opaque, Error **errp)
{
    HotsnapMemory *m = opaque;
    bool converged;
    char *error = NULL;

    if (!hs_snapshot_precopy(m->snapshot, &converged, &error)) {
        error_setg(errp, "%s", error);
        hs_string_free(error);
        return false;
    }
    return true;
}

static bool memory_arm(void *opaque, Error **errp)
{
    HotsnapMemory *m = opaque;
    char *error = NULL;

    if (!hs_snapshot_arm(m->snapshot, ARM_MAX_US, &error)) {
        error_setg(errp, "%s", error);
        hs_string_free(error);
        return false;
    }
    return true;
}

/* Test hook: the same memory and devices once more, written at once. */
static bool write_dump(HotsnapMemory *m, Error **errp)
{
    g_autofree char *path = g_build_filename(m->run->folder, "state.dump",
                                             NULL);
    char *error = NULL;
    bool ok;
    int fd;

    if (!hs_snapshot_dump(m->snapshot, path, &error)) {
        error_setg(errp, "%s", error);
        hs_string_free(error);
        return false;
    }
    fd = qemu_open(path, O_WRONLY | O_APPEND, errp);
    if (fd < 0) {
        return false;
    }
    ok = qemu_write_full(fd, m->tail->data, m->tail->len) == m->tail->len;
    if (!ok) {
        error_setg_errno(errp, errno, "Cannot write '%s'", path);
    }
    close(fd);
    return ok;
}

static bool traps_with_kvm(HotsnapMemory *m)
{
    hs_snapshot_stats s = { .struct_size = sizeof(s) };

    hs_snapshot_get_stats(m->snapshot, &s);
    return !strcmp(s.engine, HotsnapEngine_str(HOTSNAP_ENGINE_KVM));
}

/*
 * Devices first, since saving their state may touch guest memory. With engine
 * kvm, memory that it cannot trap is saved here, too: device memory and open
 * DMA mappings (dma.c).
 */
static bool memory_cut(void *opaque, Error **errp)
{
    HotsnapMemory *m = opaque;
    hs_pause *pause = &m->run->pause;
    char *error = NULL;

    if (!hotsnap_watch_holds(errp)) {
        return false;
    }
    m->tail = hotsnap_vmstate_devices(errp);
    hotsnap_pause_step(pause, "devices");
    if (!m->tail) {
        return false;
    }
    if (!hs_snapshot_cut(m->snapshot, &error)) {
        error_setg(errp, "%s", error);
        hs_string_free(error);
        return false;
    }
    if (traps_with_kvm(m)) {
        hotsnap_dma_arm(m->snapshot);
    }
    hotsnap_pause_step(pause, "protect");
    if (m->run->options->x_dump) {
        if (!write_dump(m, errp)) {
            return false;
        }
        hotsnap_pause_step(pause, "dump");
    }
    return true;
}

static bool memory_resume(void *opaque, Error **errp)
{
    HotsnapMemory *m = opaque;
    char *error = NULL;

    if (!hs_snapshot_start(m->snapshot, m->tail->data, m->tail->len,
                           &error)) {
        error_setg(errp, "%s", error);
        hs_string_free(error);
        return false;
    }
    return true;
}

static bool get_stats(HotsnapMemory *m, hs_snapshot_stats *s)
{
    QEMU_LOCK_GUARD(&m->lock);

    *s = (hs_snapshot_stats) { .struct_size = sizeof(*s) };
    if (m->snapshot) {
        hs_snapshot_get_stats(m->snapshot, s);
    }
    return m->snapshot;
}

static void memory_report(void *opaque, QDict *json)
{
    HotsnapMemory *m = opaque;
    QDict *memory = qdict_new(), *pages = qdict_new();
    g_autofree char *file = g_build_filename(m->run->member, "state", NULL);
    g_autofree char *sums = g_strdup_printf("%s.sums", file);
    hs_snapshot_stats s;

    get_stats(m, &s);
    qdict_put_str(memory, "file", file);
    qdict_put_str(memory, "sums", sums);
    hotsnap_report_xxh3(memory, "sums_xxh3", s.sums_xxh3);
    qdict_put_int(memory, "size", s.image_size);
    qdict_put_str(memory, "engine", s.engine);
    qdict_put_bool(memory, "direct_io", s.direct_io);
    HOTSNAP_REPORT_COUNTERS(HS_PAGE_COUNTERS, pages, s.pages);
    qdict_put(memory, "pages", pages);
    HOTSNAP_REPORT_COUNTERS(HS_MEMORY_COUNTERS, memory, s);
    qdict_put(json, "memory", memory);
}

static void memory_info(void *opaque, HotsnapSnapshotInfo *info)
{
    HotsnapMemory *m = opaque;
    hs_snapshot_stats s;

    if (!get_stats(m, &s)) {
        return;
    }
    info->engine = g_strdup(s.engine);
    info->pages = g_new0(HotsnapPages, 1);
    HOTSNAP_COPY_COUNTERS(HS_PAGE_COUNTERS, info->pages, s.pages);
    HOTSNAP_COPY_COUNTERS(HS_MEMORY_COUNTERS, info, s);
    info->bytes_total = s.bytes_total;
    info->bytes_done = s.bytes_done;
    info->bandwidth = s.bandwidth;
}

/* Atomics: run.c has set `cancelled` before. */
static void memory_stop(void *opaque, const char *reason)
{
    HotsnapMemory *m = opaque;
    hs_snapshot *s;

    WITH_QEMU_LOCK_GUARD(&m->lock) {
        s = m->snapshot;
    }
    if (s) {
        hs_snapshot_abort(s, reason);
    }
}

static void memory_undo(void *opaque, const char *reason)
{
    static const char *const files[] = {
        "state", "state.sums", "state.dump", "access"
    };
    HotsnapMemory *m = opaque;
    hs_snapshot *doomed;

    WITH_QEMU_LOCK_GUARD(&m->lock) {
        doomed = m->snapshot;
        m->snapshot = NULL;
    }
    WITH_QEMU_LOCK_GUARD(&m->abort_lock) {
        if (doomed) {
            hs_snapshot_abort(doomed, reason);
        }
        m->abortable = NULL;
    }
    hotsnap_dma_disarm();
    hs_snapshot_free(doomed);
    /* An unfinished image has removed itself; a finished one has not. */
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        g_autofree char *path = g_build_filename(m->run->folder, files[i],
                                                 NULL);

        unlink(path);
    }
}

/* By now the snapshot has finished, or is gone: memory is only memory. */
static void memory_release(void *opaque)
{
    hotsnap_watch_end();
    hotsnap_dma_disarm();
}

/* Threads are joined, and the staging buffer is unmapped. */
static void memory_free(void *opaque)
{
    HotsnapMemory *m = opaque;

    hs_snapshot_free(m->snapshot);
    if (m->tail) {
        g_byte_array_unref(m->tail);
    }
    qemu_event_destroy(&m->made);
    qemu_mutex_destroy(&m->abort_lock);
    qemu_mutex_destroy(&m->lock);
    g_free(m);
}

void hotsnap_memory_set_bandwidth(void *part, uint64_t bandwidth)
{
    HotsnapMemory *m = part;

    QEMU_LOCK_GUARD(&m->lock);
    m->bandwidth = bandwidth;
    if (m->snapshot) {
        hs_snapshot_set_bandwidth(m->snapshot, bandwidth);
    } /* else it is still being made, and begins with this limit */
}

/* The snapshot has been made: the instant is told from ARM on. */
void hotsnap_memory_set_finish(void *part, uint64_t finish_us)
{
    HotsnapMemory *m = part;

    QEMU_LOCK_GUARD(&m->lock);
    if (m->snapshot) {
        hs_snapshot_set_deadline(m->snapshot,
                                 MIN(finish_us, UINT64_MAX / 1000) * 1000);
    }
}

void hotsnap_memory_precopied(void *part, bool *converged, uint64_t *left)
{
    hs_snapshot_stats s;

    get_stats(part, &s);
    *converged = s.precopy_converged;
    *left = s.precopy_written * 4096;
}

void hotsnap_memory_progress(void *part, uint64_t *done, uint64_t *total,
                             uint64_t *expected_us)
{
    hs_snapshot_stats s;

    get_stats(part, &s);
    *done = s.bytes_done;
    *total = s.bytes_total;
    *expected_us = s.expected_ns / 1000;
}

const HotsnapPart hotsnap_memory_part = {
    .name = "memory",
    .contents = BIT(HOTSNAP_CONTENT_ALL),
    .begin = memory_begin,
    .prepare = memory_prepare,
    .precopy = memory_precopy,
    .arm = memory_arm,
    .cut = memory_cut,
    .resume = memory_resume,
    .report = memory_report,
    .info = memory_info,
    .stop = memory_stop,
    .undo = memory_undo,
    .release = memory_release,
    .free = memory_free,
};
