/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A member's part in a restore: load the state, wait for the others at the
 * coordinator's barrier, start, play the recorded channel back.
 *
 * What can fail is done before the barrier, where no member runs yet: the
 * channel is read before the state is. When another member fails after it,
 * those that run already are stopped.
 *
 * Frames that other members send once they run, and we do not yet, wait in
 * the filters until the recorded ones are through.
 *
 * The load needs settings of QEMU's own: mapped-ram, and that nothing starts
 * at its end. They are as before once the load has ended, which can be after
 * the restore: an ABORT does not end it.
 */
#include "qemu/osdep.h"
#include "internal.h"
#include "migration/global_state.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-migration.h"
#include "qemu/timer.h"
#include "system/runstate.h"
#include "system/system.h"

#define POLL_MS 2

static void restore_end(HotsnapMember *m)
{
    m->restoring = false;
    hotsnap_filters_end_restore(m);
    g_clear_pointer(&m->playback, hs_playback_free);
    g_clear_pointer(&m->restore_folder, g_free);
}

/* Nothing of the load reads them any more. */
static void restore_settings(HotsnapMember *m)
{
    MigrationState *s = migrate_get_current();

    s->capabilities[MIGRATION_CAPABILITY_MAPPED_RAM] = m->mapped_ram_before;
    autostart = m->autostart_before;
    g_clear_pointer(&m->load_timer, timer_free);
}

static bool restore_activate_disks(Error **errp)
{
    ERRP_GUARD();

    bdrv_activate_all(errp);
    return !*errp;
}

static void load_succeeded(HotsnapMember *m)
{
    Error *err = NULL;

    /* Before the barrier: nothing that can fail or take long after it. */
    if (restore_activate_disks(&err)) {
        hotsnap_local(m, HS_LOCAL_LOADED, NULL);
    } else {
        hotsnap_local_failed(m, err);
    }
}

static void load_failed(HotsnapMember *m)
{
    MigrationState *s = migrate_get_current();
    Error *err = NULL;

    WITH_QEMU_LOCK_GUARD(&s->error_mutex) {
        error_setg(&err, "Cannot load '%s/state': %s", m->restore_folder,
                   s->error ? error_get_pretty(s->error)
                            : "see this QEMU's messages");
    }
    hotsnap_local_failed(m, err);
}

/* Migration tells its state to QMP clients only, so it is asked. */
static void load_poll(void *opaque)
{
    HotsnapMember *m = opaque;
    MigrationStatus state = migration_incoming_get_current()->state;
    bool loaded = state == MIGRATION_STATUS_COMPLETED &&
                  !runstate_check(RUN_STATE_INMIGRATE);

    if (!loaded && state != MIGRATION_STATUS_FAILED) {
        timer_mod(m->load_timer,
                  qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + POLL_MS);
        return;
    }
    restore_settings(m);
    if (!m->restoring) {
        return; /* aborted meanwhile */
    }
    if (loaded) {
        load_succeeded(m);
    } else {
        load_failed(m);
    }
}

/* When it is needed, members run already: too late to fail. */
static bool restore_open_channel(HotsnapMember *m, Error **errp)
{
    g_autofree char *pcap = g_build_filename(m->restore_folder,
                                             "channel.pcap", NULL);
    g_autofree char *vnet = g_build_filename(m->restore_folder,
                                             "channel.vnet", NULL);
    char *error = NULL;

    if (!hotsnap_filters_check(m, pcap, vnet, errp)) {
        return false;
    }
    m->playback = hs_playback_open(pcap, vnet, &error);
    if (!m->playback) {
        error_setg(errp, "%s", error);
        hs_string_free(error);
    }
    return m->playback;
}

static bool restore_begin(HotsnapMember *m, Error **errp)
{
    MigrationCapabilityStatus mapped_ram = {
        .capability = MIGRATION_CAPABILITY_MAPPED_RAM, .state = true
    };
    MigrationCapabilityStatusList caps = { .value = &mapped_ram };
    g_autofree char *path = g_build_filename(m->restore_folder, "state",
                                             NULL);
    g_autofree char *uri = g_strdup_printf("file:%s", path);
    Error *err = NULL;

    if (!runstate_check(RUN_STATE_INMIGRATE)) {
        error_setg(errp, "This VM was started already; start QEMU with "
                   "-incoming defer");
        return false;
    }
    if (access(path, R_OK)) {
        error_setg_errno(errp, errno, "Cannot read '%s'", path);
        return false;
    }
    if (!restore_open_channel(m, errp)) {
        return false;
    }
    m->mapped_ram_before = migrate_mapped_ram();
    m->autostart_before = autostart;
    m->load_timer = timer_new_ms(QEMU_CLOCK_REALTIME, load_poll, m);
    qmp_migrate_set_capabilities(&caps, &err);
    if (!err) {
        /* All members start together, whatever the command line says. */
        autostart = 0;
        qmp_migrate_incoming(uri, false, NULL, true, false, &err);
    }
    if (err) {
        restore_settings(m);
        error_propagate(errp, err);
        return false;
    }
    load_poll(m);
    return true;
}

void hotsnap_restore_load(HotsnapMember *m, QDict *request)
{
    Error *err = NULL;

    if (m->epoch || m->restoring || m->restored || m->load_timer) {
        error_setg(&err, "A snapshot or restore is in progress already");
        hotsnap_local_failed(m, err);
        return;
    }
    m->restoring = true;
    m->restore_folder = g_build_filename(
        qdict_get_try_str(request, "bundle") ?: "", m->name, NULL);
    hotsnap_filters_identify(m);
    if (!restore_begin(m, &err)) {
        hotsnap_local_failed(m, err);
    }
}

void hotsnap_restore_start(HotsnapMember *m)
{
    QDict *json;

    if (!m->restoring) {
        return;
    }
    m->restored = true;
    json = qdict_new();
    qdict_put_int(json, "start_ns", hotsnap_now_ns());
    if (runstate_is_live(global_state_get_runstate())) {
        vm_start(); /* else it was paused at the cut, and stays so */
    }
    /* Before any other frame: we are still in the same turn of the loop. */
    qdict_put_int(json, "played", hotsnap_filters_play(m, m->playback));
    restore_end(m);
    hotsnap_local(m, HS_LOCAL_STARTED, json);
}

void hotsnap_restore_commit(HotsnapMember *m)
{
    m->restored = false;
}

/*
 * Another member did not start, or nobody knows whether it did. A part of
 * the cluster must not run on without the rest.
 */
void hotsnap_restore_abort(HotsnapMember *m)
{
    if (m->restored) {
        vm_stop(RUN_STATE_PAUSED);
        m->restored = false;
    }
    restore_end(m);
    hotsnap_local(m, HS_LOCAL_ABORTED, NULL);
}
