/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Steps that can fail come before the barrier, where no member runs yet: the
 * channel is read before the state is. When another member fails after it,
 * those that run already are stopped.
 *
 * Frames that other members send once they run, and we do not yet, wait in
 * the filters until the recorded ones are through.
 *
 * The load needs two settings of QEMU: mapped-ram, and no start of the VM at
 * its end. They are as before once the load has ended, which can be after the
 * restore: an ABORT does not end it.
 */
#include "qemu/osdep.h"
#include "clock.h"
#include "block/block.h"
#include "migration/global_state.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "lazy.h"
#include "parts/playback.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-migration.h"
#include "qapi/qapi-types-hotsnap.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "qobject/qjson.h"
#include "restore.h"
#include "system/runstate.h"
#include "system/system.h"
#include "trace.h"

#define POLL_MS 2

struct HotsnapRestore {
    HotsnapNetwork *network;
    HotsnapQueue *main;
    char *folder;
    hs_playback *playback;
    void (*loaded)(void *opaque, Error *err);
    void *opaque;
};

/* The load, which may outlive the restore. */
static HotsnapRestore *restoring; /* NULL: aborted meanwhile */
static QEMUTimer *load_timer;     /* NULL: nothing is being loaded */
static bool mapped_ram_before;
static int autostart_before;

bool hotsnap_restore_loading(void)
{
    return load_timer;
}

static void restore_free(HotsnapRestore *r)
{
    restoring = NULL;
    hotsnap_playback_end(r->network);
    g_clear_pointer(&r->playback, hs_playback_free);
    g_free(r->folder);
    g_free(r);
}

/* The load has ended and reads the settings no more. */
static void restore_settings(void)
{
    MigrationState *s = migrate_get_current();

    s->capabilities[MIGRATION_CAPABILITY_MAPPED_RAM] = mapped_ram_before;
    autostart = autostart_before;
    hotsnap_lazy_state_ended();
    g_clear_pointer(&load_timer, timer_free);
}

/* Before the barrier: no step after it can fail or take long. */
static void load_succeeded(HotsnapRestore *r)
{
    Error *err = NULL;

    if (hotsnap_lazy_check(&err)) {
        bdrv_activate_all(&err);
    }
    if (!err) {
        hotsnap_playback_announce(r->network, r->playback);
    }
    r->loaded(r->opaque, err);
}

static void load_failed(HotsnapRestore *r)
{
    MigrationState *s = migrate_get_current();
    Error *err = NULL;

    WITH_QEMU_LOCK_GUARD(&s->error_mutex) {
        error_setg(&err, "Cannot load '%s/state': %s", r->folder,
                   s->error ? error_get_pretty(s->error)
                            : "see this QEMU's messages");
    }
    r->loaded(r->opaque, err);
}

static bool load_has_ended(bool *good)
{
    MigrationStatus state = migration_incoming_get_current()->state;

    *good = state == MIGRATION_STATUS_COMPLETED &&
            !runstate_check(RUN_STATE_INMIGRATE);
    return *good || state == MIGRATION_STATUS_FAILED;
}

/*
 * In the queue's turn: activating disks polls the main loop's AioContext, and
 * an abort must not free the restore meanwhile.
 */
static void load_ended(void *opaque)
{
    bool good;

    load_has_ended(&good);
    restore_settings();
    if (restoring && good) {
        load_succeeded(restoring);
    } else if (restoring) {
        load_failed(restoring);
    }
}

/* Migration tells its state to QMP clients only, so it is polled. */
static void load_poll(void *opaque)
{
    HotsnapQueue *main = opaque;
    bool good;

    /* The working set follows the devices, until the VM can start. */
    if (load_has_ended(&good) && (!good || hotsnap_lazy_ready())) {
        hotsnap_queue_post(main, load_ended, NULL);
    } else {
        timer_mod(load_timer,
                  qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + POLL_MS);
    }
}

/* Early: when it is needed, members run already, and it must not fail. */
static bool open_channel(HotsnapRestore *r, Error **errp)
{
    g_autofree char *pcap = g_build_filename(r->folder, "channel.pcap", NULL);
    g_autofree char *vnet = g_build_filename(r->folder, "channel.vnet", NULL);
    char *error = NULL;

    if (!hotsnap_playback_check(r->network, pcap, vnet, errp)) {
        return false;
    }
    r->playback = hs_playback_open(pcap, vnet, &error);
    if (!r->playback) {
        error_setg(errp, "%s", error);
        hs_string_free(error);
    }
    return r->playback;
}

static bool begin_load(HotsnapRestore *r, const char *path, Error **errp)
{
    MigrationCapabilityStatus mapped_ram = {
        .capability = MIGRATION_CAPABILITY_MAPPED_RAM, .state = true
    };
    MigrationCapabilityStatusList caps = { .value = &mapped_ram };
    g_autofree char *uri = g_strdup_printf("file:%s", path);
    Error *err = NULL;

    mapped_ram_before = migrate_mapped_ram();
    autostart_before = autostart;
    load_timer = timer_new_ms(QEMU_CLOCK_REALTIME, load_poll, r->main);
    qmp_migrate_set_capabilities(&caps, &err);
    if (!err) {
        /* All members start together, whatever the command line says. */
        autostart = 0;
        qmp_migrate_incoming(uri, false, NULL, true, false, &err);
    }
    if (err) {
        restore_settings();
        error_propagate(errp, err);
        return false;
    }
    /* Not at once: the caller does not know of this restore yet. */
    timer_mod(load_timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME));
    return true;
}

/* A bundle of disks only has no state to load, and its manifest says so. */
static bool has_memory(const char *bundle, Error **errp)
{
    g_autofree char *path = g_build_filename(bundle, "manifest.json", NULL);
    g_autofree char *text = NULL;
    QObject *manifest = NULL;
    QDict *dict;
    bool only_disks = false;

    if (g_file_get_contents(path, &text, NULL, NULL)) {
        manifest = qobject_from_json(text, NULL);
    }
    dict = qobject_to(QDict, manifest);
    if (dict) {
        const char *content = qdict_get_try_str(dict, "content");

        only_disks = content && !strcmp(content, HotsnapContent_str(
                                                     HOTSNAP_CONTENT_DISKS));
    }
    qobject_unref(manifest);
    if (only_disks) {
        error_setg(errp, "'%s' is a snapshot of disks only: there is no "
                   "memory to load; start VMs on overlays over its disks, "
                   "without -incoming, as 'hotsnap restore' does", bundle);
    }
    return !only_disks;
}

static bool begin(HotsnapRestore *r, const char *bundle, const char *member,
                  const HotsnapRestoreOptions *options, Error **errp)
{
    g_autofree char *path = g_build_filename(r->folder, "state", NULL);

    if (access(path, F_OK) && !has_memory(bundle, errp)) {
        return false;
    }
    if (load_timer) {
        error_setg(errp, "A restore that was given up is still loading; start "
                   "this QEMU again with -incoming defer");
        return false;
    }
    if (hotsnap_lazy_loading()) {
        error_setg(errp, "The memory of a restore that was given up is still "
                   "being loaded; start this QEMU again with -incoming defer");
        return false;
    }
    if (!runstate_check(RUN_STATE_INMIGRATE)) {
        error_setg(errp, "This VM was started already; start QEMU with "
                   "-incoming defer");
        return false;
    }
    if (access(path, R_OK)) {
        error_setg_errno(errp, errno, "Cannot read '%s'", path);
        return false;
    }
    if (!open_channel(r, errp)) {
        return false;
    }
    if (options->has_memory && options->memory == HOTSNAP_RESTORE_MEMORY_LAZY &&
        !hotsnap_lazy_begin(bundle, member, options, r->main, errp)) {
        return false;
    }
    return begin_load(r, path, errp);
}

HotsnapRestore *hotsnap_restore_begin(HotsnapNetwork *network,
                                      HotsnapQueue *main,
                                      const char *bundle, const char *member,
                                      const HotsnapRestoreOptions *options,
                                      void (*loaded)(void *opaque,
                                                     Error *err),
                                      void *opaque, Error **errp)
{
    HotsnapRestore *r = g_new0(HotsnapRestore, 1);

    r->network = network;
    r->main = main;
    r->folder = g_build_filename(bundle, member, NULL);
    r->loaded = loaded;
    r->opaque = opaque;
    hotsnap_playback_begin(network);
    if (!begin(r, bundle, member, options, errp)) {
        restore_free(r);
        return NULL;
    }
    restoring = r;
    return r;
}

QDict *hotsnap_restore_start(HotsnapRestore *r)
{
    QDict *json = qdict_new();
    size_t played;

    qdict_put_int(json, "start_ns", hotsnap_now_ns());
    hotsnap_lazy_running();
    if (runstate_is_live(global_state_get_runstate())) {
        vm_start(); /* else it was paused at the cut, and stays so */
        hotsnap_lazy_look(); /* memory may have turned out to be damaged */
    }
    /* Before any other frame: this is still the same turn of the loop. */
    played = hotsnap_playback_play(r->network, r->playback);
    trace_hotsnap_played(played);
    qdict_put_int(json, "played", played);
    restore_free(r);
    return json;
}

void hotsnap_restore_end(HotsnapRestore *r)
{
    restore_free(r);
}

void hotsnap_restore_stop_vm(void)
{
    vm_stop(RUN_STATE_PAUSED);
}
