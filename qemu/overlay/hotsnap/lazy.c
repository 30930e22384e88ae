/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The library has the pages (hotsnap/restore.h); this file has the VM around
 * it.
 *
 * Locks. The main loop alone makes and frees the load, with `lock` held, and
 * reads the pointer without. Another thread uses it with `lock` held, which is
 * short: none of the calls in it waits for a page. A thread that waits for a
 * page may hold the BQL, but never this lock: nothing in it touches guest
 * memory.
 *
 * The library calls on_failed() and on_complete() in a thread that serves no
 * faults. So they may take QEMU's locks, as sending an event does, but not the
 * BQL, whose owner may wait for a page that only this thread can bring.
 *
 * While pages are absent: migration and the discarding of memory are forbidden
 * (guard.h), devices and memory are neither plugged nor unplugged
 * (hotsnap_refuses()), a snapshot waits (hotsnap_lazy_finish()). A dump of
 * memory reads it, which loads it. If a block goes all the same (a guest that
 * agrees to an unplug from before its snapshot; QEMU's end), the library lets
 * go of it first.
 */
#include "qemu/osdep.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#include "exec/ramlist.h"
#include "guard.h"
#include "lazy.h"
#include "lazy_halt.h"
#include "migration/ram.h"
#include "parts/memory_guard.h"
#include "parts/vmstate.h"
#include "qapi/clone-visitor.h"
#include "qapi/error.h"
#include "qapi/qapi-events-hotsnap.h"
#include "qapi/qapi-visit-hotsnap.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/madvise.h"
#include "qemu/rcu.h"
#include "qemu/thread.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"
#include "system/hostmem.h"
#include "system/hotsnap.h"
#include "system/runstate.h"
#include "system/system.h"

#include <hotsnap/restore.h>

#define POLL_US 5000
#define WHY "The memory of the restored VM is still being loaded"

static QemuMutex lock;
static hs_load *load;         /* NULL: there is none, or it is complete */
static bool checks_blocks;    /* the load has checked them: stock may not */
static HotsnapQueue *queue;
static HotsnapGuard guard;
static HotsnapMemoryLoadInfo *last; /* once it is complete */
static char *file;
static VMChangeStateEntry *state_entry;
static bool ending;           /* under `lock`: QEMU takes its objects apart */

/* What the manifest says of the file of checksums. */
static bool read_sums_xxh3(const char *bundle, const char *member,
                           uint64_t *xxh3, Error **errp)
{
    g_autofree char *path = g_build_filename(bundle, "manifest.json", NULL);
    g_autofree char *text = NULL;
    g_autoptr(GError) gerr = NULL;
    QObject *json = NULL;
    const QListEntry *entry;
    bool found = false;

    if (!g_file_get_contents(path, &text, NULL, &gerr)) {
        error_setg(errp, "Cannot read the manifest: %s", gerr->message);
        return false;
    }
    json = qobject_from_json(text, NULL);
    if (qobject_to(QDict, json)) {
        QList *members = qdict_get_qlist(qobject_to(QDict, json), "members");

        for (entry = members ? qlist_first(members) : NULL; entry && !found;
             entry = qlist_next(entry)) {
            QDict *m = qobject_to(QDict, qlist_entry_obj(entry));
            const char *name = m ? qdict_get_try_str(m, "name") : NULL;
            QDict *memory = m ? qdict_get_qdict(m, "memory") : NULL;
            const char *sum = memory ? qdict_get_try_str(memory, "sums_xxh3")
                                     : NULL;

            found = name && sum && !strcmp(name, member) &&
                    !qemu_strtou64(sum, NULL, 16, xxh3);
        }
    }
    qobject_unref(json);
    if (!found) {
        error_setg(errp, "'%s' has no checksum of member '%s'", path, member);
    }
    return found;
}

static int find_prealloc(Object *obj, void *opaque)
{
    const char **found = opaque;

    if (!*found && object_dynamic_cast(obj, TYPE_MEMORY_BACKEND) &&
        object_property_get_bool(obj, "prealloc", NULL)) {
        *found = object_get_canonical_path_component(obj) ?: "";
    }
    return 0;
}

/* Memory whose owner wants it to be there at any time. */
static bool may_be_absent(Error **errp)
{
    const char *found = NULL;

    if (should_mlock(mlock_state)) {
        error_setg(errp, "-overcommit mem-lock keeps all memory present; load "
                   "it in full");
        return false;
    }
    object_child_foreach_recursive(object_get_root(), find_prealloc, &found);
    if (found) {
        error_setg(errp, "Memory backend '%s' has prealloc=on, which keeps "
                   "all of it present; load it in full", found);
        return false;
    }
    return hotsnap_memory_guard_check(errp);
}

/*
 * A huge page is made of one fault, and the image has small ones. The kernel
 * makes none where faults are trapped, but between the traps, and it would
 * join pages that have come.
 */
static void allow_huge_pages(bool allow)
{
    RAMBlock *rb;

    RCU_READ_LOCK_GUARD();
    RAMBLOCK_FOREACH_MIGRATABLE(rb) {
        /* As in QEMU, it does no harm where it is not possible. */
        qemu_madvise(rb->host, rb->max_length,
                     allow ? QEMU_MADV_HUGEPAGE : QEMU_MADV_NOHUGEPAGE);
    }
}

static void set_load(hs_load *l)
{
    QEMU_LOCK_GUARD(&lock);

    load = l;
}

static HotsnapMemoryLoadFailure *failure_of(hs_load *l)
{
    HotsnapMemoryLoadFailure *f;
    hs_load_failure c;

    if (!hs_load_get_failure(l, &c)) {
        return NULL;
    }
    f = g_new0(HotsnapMemoryLoadFailure, 1);
    f->message = g_strdup(c.message);
    f->block = g_strdup(c.block);
    f->block_offset = c.block_offset;
    f->file_offset = c.file_offset;
    hs_string_free(c.message);
    hs_string_free(c.block);
    return f;
}

static HotsnapMemoryLoadInfo *info_of(hs_load *l)
{
    HotsnapMemoryLoadInfo *info = g_new0(HotsnapMemoryLoadInfo, 1);
    hs_load_stats s = { .struct_size = sizeof(s) };

    hs_load_get_stats(l, &s);
#define COPY(name) info->name = s.name;
    HS_LOAD_COUNTERS(COPY)
#undef COPY
    info->bandwidth = s.bandwidth;
    info->file = g_strdup(file);
    info->failure = failure_of(l);
    info->state = s.complete ? HOTSNAP_MEMORY_LOAD_STATE_COMPLETE :
                  info->failure ? HOTSNAP_MEMORY_LOAD_STATE_FAILED :
                  HOTSNAP_MEMORY_LOAD_STATE_LOADING;
    return info;
}

/* The end, and failures. */

static void block_removed(RAMBlockNotifier *n, void *host, size_t size,
                          size_t max_size)
{
    if (load) {
        hs_load_forget(load, host);
    }
}

static RAMBlockNotifier notifier = { .ram_block_removed = block_removed };

static void on_state(void *opaque, bool running, RunState state)
{
    if (running && load) {
        hs_load_retry(load);
    }
}

static void completed(void *opaque)
{
    hs_load *l = load;

    last = info_of(l);
    set_load(NULL);
    hs_load_free(l); /* its callback has returned, or does so at once */
    g_clear_pointer(&state_entry, qemu_del_vm_change_state_handler);
    ram_block_notifier_remove(&notifier);
    allow_huge_pages(true);
    hotsnap_guard_leave(&guard);
    qapi_event_send_hotsnap_memory_load(HOTSNAP_MEMORY_LOAD_STATE_COMPLETE,
                                        NULL);
}

/* Library thread. */
static void on_complete(void *opaque)
{
    QEMU_LOCK_GUARD(&lock);

    if (!ending) {
        hotsnap_queue_post(queue, completed, NULL);
    }
}

void hotsnap_lazy_look(void)
{
    HotsnapMemoryLoadFailure *f = load ? failure_of(load) : NULL;

    if (f) {
        hotsnap_lazy_halt();
        qapi_free_HotsnapMemoryLoadFailure(f);
    }
}

static void look(void *opaque)
{
    hotsnap_lazy_look();
}

/*
 * Library thread. The event goes out at once: the main loop may be waiting for
 * this very page.
 */
static void on_failed(void *opaque, const char *message)
{
    HotsnapMemoryLoadFailure *f = NULL;

    WITH_QEMU_LOCK_GUARD(&lock) {
        f = load && !ending ? failure_of(load) : NULL;
        if (f) {
            hotsnap_queue_post(queue, look, NULL);
        }
    }
    if (f) {
        error_report("%s", f->message);
        qapi_event_send_hotsnap_memory_load(HOTSNAP_MEMORY_LOAD_STATE_FAILED,
                                            f);
        qapi_free_HotsnapMemoryLoadFailure(f);
    }
}

/* The beginning. */

static hs_load *open_load(const char *bundle, const char *member,
                          const HotsnapRestoreOptions *options, Error **errp)
{
    g_autofree char *image = g_build_filename(bundle, member, "state", NULL);
    g_autofree char *sums = g_build_filename(bundle, member, "state.sums",
                                             NULL);
    g_autofree char *accesses = g_build_filename(bundle, member, "access",
                                                 NULL);
    g_autoptr(GArray) tids = hotsnap_vmstate_vcpus();
    hs_load_options o;
    char *error = NULL;
    hs_load *l;

    hs_load_options_init(&o);
    if (!read_sums_xxh3(bundle, member, &o.sums_xxh3, errp)) {
        return NULL;
    }
    o.image_path = image;
    o.sums_path = sums;
    o.ram_section_id = HOTSNAP_RAM_SECTION_ID;
    o.bandwidth = options->has_bandwidth ? options->bandwidth : 0;
    o.access_path = accesses;
    o.window = options->has_window ? options->window : HS_WINDOW_AUTO;
    o.vcpu_tids = (const int *)tids->data;
    o.vcpu_tid_count = tids->len;
    o.on_failed = on_failed;
    o.on_complete = on_complete;
    l = hs_load_open(&o, &error);
    if (!l) {
        error_setg(errp, "%s", error);
        hs_string_free(error);
    }
    return l;
}

/* @l is freed unless memory was changed. */
static bool attach(hs_load *l, Error **errp)
{
    g_autoptr(GArray) blocks = hotsnap_vmstate_blocks();
    char *error = NULL;
    bool changed, ok;

    allow_huge_pages(false);
    set_load(l); /* faults may come before the call returns */
    ok = hs_load_attach(l, (hs_ram_block *)blocks->data, blocks->len, &changed,
                        &error);
    if (!ok) {
        error_setg(errp, "%s%s", error, changed
                   ? "; start this QEMU again with -incoming defer" : "");
        hs_string_free(error);
    }
    if (!ok && !changed) {
        set_load(NULL);
        allow_huge_pages(true);
        hs_load_free(l);
    }
    return ok;
}

bool hotsnap_lazy_begin(const char *bundle, const char *member,
                        const HotsnapRestoreOptions *options,
                        HotsnapQueue *main, Error **errp)
{
    hs_load *l;

    if (!may_be_absent(errp)) {
        return false;
    }
    l = open_load(bundle, member, options, errp);
    if (!l) {
        return false;
    }
    if (!hotsnap_guard_enter(&guard, WHY, errp)) {
        hotsnap_guard_leave(&guard);
        hs_load_free(l);
        return false;
    }
    queue = main;
    g_free(file);
    file = g_build_filename(bundle, member, "state", NULL);
    g_clear_pointer(&last, qapi_free_HotsnapMemoryLoadInfo);
    if (!attach(l, errp)) {
        if (!load) {
            hotsnap_guard_leave(&guard);
        }
        return false;
    }
    ram_block_notifier_add(&notifier);
    state_entry = qemu_add_vm_change_state_handler(on_state, NULL);
    checks_blocks = true;
    return true;
}

int hotsnap_loads_block(const char *idstr, uint64_t length,
                        uint64_t pages_offset, Error **errp)
{
    bool taken = false;

    if (!checks_blocks) {
        return 0;
    }
    WITH_QEMU_LOCK_GUARD(&lock) {
        /* No load: it is complete already, all blocks were its own. */
        taken = !load || hs_load_takes(load, idstr, length, pages_offset);
    }
    if (!taken) {
        error_setg(errp, "RAM block '%s' is not where it was when the image "
                   "was checked", idstr);
    }
    return taken ? 1 : -1;
}

/* For others. */

void hotsnap_lazy_state_ended(void)
{
    checks_blocks = false;
}

bool hotsnap_lazy_check(Error **errp)
{
    HotsnapMemoryLoadFailure *f = load ? failure_of(load) : NULL;

    if (f) {
        error_setg(errp, "%s", f->message);
        qapi_free_HotsnapMemoryLoadFailure(f);
    }
    return !f;
}

bool hotsnap_lazy_ready(void)
{
    return !load || hs_load_ready(load);
}

void hotsnap_lazy_running(void)
{
    if (load) {
        hs_load_running(load);
    }
}

bool hotsnap_lazy_loading(void)
{
    return load;
}

bool hotsnap_lazy_finish(const bool *cancelled, Error **errp)
{
    for (;;) {
        HotsnapMemoryLoadFailure *f = NULL;
        hs_load_stats s = { .struct_size = sizeof(s), .complete = true };

        WITH_QEMU_LOCK_GUARD(&lock) {
            if (load) {
                hs_load_set_bandwidth(load, 0);
                hs_load_get_stats(load, &s);
                f = failure_of(load);
            }
        }
        if (f) {
            error_setg(errp, "%s", f->message);
            qapi_free_HotsnapMemoryLoadFailure(f);
            return false;
        }
        if (s.complete) {
            return true;
        }
        if (qatomic_read(cancelled)) {
            error_setg(errp, "cancelled while memory was being loaded");
            return false;
        }
        g_usleep(POLL_US);
    }
}

bool hotsnap_lazy_set_bandwidth(uint64_t bandwidth)
{
    if (load) {
        hs_load_set_bandwidth(load, bandwidth);
    }
    return load;
}

HotsnapMemoryLoadInfo *hotsnap_lazy_info(void)
{
    if (load) {
        return info_of(load);
    }
    return last ? QAPI_CLONE(HotsnapMemoryLoadInfo, last) : NULL;
}

void hotsnap_lazy_lift_guard(void)
{
    if (load) {
        hotsnap_guard_lift(&guard);
    }
}

void hotsnap_lazy_put_up_guard(void)
{
    if (load) {
        hotsnap_guard_put_up(&guard, WHY);
    }
}

void hotsnap_lazy_shutdown(void)
{
    hs_load_stats s = { .struct_size = sizeof(s) };

    if (!load) {
        return;
    }
    hotsnap_lazy_look();
    hs_load_get_stats(load, &s);
    if (s.devices_waiting) {
        error_report("Devices wait for guest memory that cannot be loaded: "
                     "QEMU ends as in a power failure");
        _exit(EXIT_FAILURE);
    }
    WITH_QEMU_LOCK_GUARD(&lock) {
        ending = true;
    }
}

static void hotsnap_lazy_register(void)
{
    qemu_mutex_init(&lock);
}

type_init(hotsnap_lazy_register);
