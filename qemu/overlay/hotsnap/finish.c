/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From the transient to the full snapshot: what is left to do while the VM
 * runs again, and the bundle's publication by the initiator.
 *
 * All that writes or syncs files is done by the worker. Storage may be busy
 * for seconds with the image just written, and vCPUs need the BQL.
 */
#include "qemu/osdep.h"
#include "internal.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qobject/qjson.h"

#define DISK_SUMS_UNIT 65536

static void start_in_main(void *opaque)
{
    HotsnapEpoch *e = opaque;
    char *error = NULL;

    if (e->aborting) {
        return;
    }
    if (!hs_snapshot_start(e->snapshot, e->tail->data, e->tail->len,
                           &error)) {
        e->memory_error = g_strdup(error);
        hs_string_free(error);
        qemu_event_set(&e->memory_event);
    }
}

static bool sum_disks(HotsnapEpoch *e, Error **errp)
{
    for (int i = 0; i < e->disks->len; i++) {
        HotsnapDisk *d = &g_array_index(e->disks, HotsnapDisk, i);
        g_autofree char *sums = g_strdup_printf("%s/disk-%d.sums", e->folder,
                                                i);
        char *error = NULL;

        if (!hs_sums_write(d->file, sums, DISK_SUMS_UNIT, &d->sums_xxh3,
                           &e->cancelled, &error)) {
            error_setg(errp, "%s", error);
            hs_string_free(error);
            return false;
        }
    }
    return true;
}

static bool sync_folder(const char *path, Error **errp)
{
    int fd = qemu_open_old(path, O_RDONLY | O_DIRECTORY);
    bool ok = fd >= 0 && !fsync(fd);

    if (!ok) {
        error_setg_errno(errp, errno, "Cannot sync folder '%s'", path);
    }
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

/*
 * Reads the mediator without the BQL. It may: of the mediator this uses the
 * record alone, and the main loop does not touch that one between the close
 * of the channels, which was waited for, and hs_mediator_reset(), which an
 * abort puts off while writing_channel is set. There is no COMMIT before our
 * FULL_FIN, nor a next epoch.
 */
static bool write_channel(HotsnapEpoch *e, Error **errp)
{
    g_autofree char *pcap = g_build_filename(e->folder, "channel.pcap", NULL);
    g_autofree char *vnet = g_build_filename(e->folder, "channel.vnet", NULL);
    char *error = NULL;

    if (!hs_mediator_write_channel(e->member->mediator, pcap, vnet, &error) ||
        !hs_file_xxh3(pcap, &e->pcap_xxh3, &error) ||
        !hs_file_xxh3(vnet, &e->vnet_xxh3, &error)) {
        error_setg(errp, "%s", error);
        hs_string_free(error);
        return false;
    }
    return sync_folder(e->folder, errp); /* all files of ours are there */
}

typedef struct FinishCall {
    HotsnapEpoch *e;
    QDict *report;
    Error *err;
} FinishCall;

static void begin_channel_in_main(void *opaque)
{
    FinishCall *call = opaque;
    HotsnapEpoch *e = call->e;

    if (e->aborting) {
        error_setg(&call->err, "%s", e->abort_reason);
    } else {
        e->writing_channel = true;
    }
}

/* In the main loop, where the mediator and the disks may be looked at. */
static void report_in_main(void *opaque)
{
    FinishCall *call = opaque;
    HotsnapEpoch *e = call->e;

    if (e->aborting) {
        error_setg(&call->err, "%s", e->abort_reason);
    } else {
        e->writing_channel = false;
        call->report = hotsnap_report_member(e);
    }
}

void *hotsnap_finish_task(void *opaque)
{
    HotsnapEpoch *e = opaque;
    HotsnapMember *m = e->member;
    FinishCall call = { .e = e };

    rcu_register_thread();
    hotsnap_call_main(m, start_in_main, e);
    if (hotsnap_disks_settle(e, &call.err) && sum_disks(e, &call.err)) {
        qemu_event_wait(&e->channels_event);
        qemu_event_wait(&e->memory_event);
        if (e->memory_error) {
            error_setg(&call.err, "%s", e->memory_error);
        } else {
            hotsnap_call_main(m, begin_channel_in_main, &call);
        }
        if (!call.err && write_channel(e, &call.err)) {
            hotsnap_call_main(m, report_in_main, &call);
        }
    }
    rcu_unregister_thread();
    hotsnap_epoch_drop_if_aborting(e, &call.err);
    hotsnap_epoch_task_done(e);
    if (call.err) {
        hotsnap_local_failed(m, call.err);
    } else if (call.report) {
        hotsnap_local(m, HS_LOCAL_FULL_FIN, call.report);
    }
    return NULL;
}

static bool write_durably(const char *path, const char *text, gsize size,
                          Error **errp)
{
    int fd = qemu_open_old(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    bool ok = fd >= 0 && qemu_write_full(fd, text, size) == size &&
              !fsync(fd);

    if (!ok) {
        error_setg_errno(errp, errno, "Cannot write '%s'", path);
    }
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

/*
 * The one instant at which the snapshot comes into being: the rename. All
 * members' files are durable by now; the manifest is made so before it.
 */
static bool publish(HotsnapEpoch *e, Error **errp)
{
    g_autofree char *partial = g_path_get_dirname(e->folder);
    g_autofree char *parent = g_path_get_dirname(partial);
    g_autofree char *final = g_build_filename(parent, e->tag, NULL);
    g_autofree char *path = g_build_filename(partial, "manifest.json", NULL);
    Error *sync_err = NULL;

    if (!write_durably(path, e->manifest, strlen(e->manifest), errp) ||
        !sync_folder(partial, errp)) {
        unlink(path);
        return false;
    }
    /* Not over an existing bundle, however it came there. */
    if (renameat2(AT_FDCWD, partial, AT_FDCWD, final, RENAME_NOREPLACE)) {
        error_setg_errno(errp, errno, "Cannot rename '%s' to '%s'", partial,
                         final);
        unlink(path);
        return false;
    }
    if (!sync_folder(parent, &sync_err)) {
        warn_report_err(sync_err);
    }
    return true;
}

static void *publish_task(void *opaque)
{
    HotsnapEpoch *e = opaque;
    HotsnapMember *m = e->member;
    Error *err = NULL;
    bool ok = publish(e, &err);

    hotsnap_epoch_task_done(e);
    if (ok) {
        hotsnap_local(m, HS_LOCAL_PUBLISHED, NULL);
    } else {
        hotsnap_local_failed(m, err);
    }
    return NULL;
}

/* Comes after our own FULL_FIN, whose task has ended: tasks say so first. */
void hotsnap_publish(HotsnapMember *m, QDict *manifest)
{
    HotsnapEpoch *e = m->epoch;
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    g_autofree char *created = g_date_time_format_iso8601(now);
    g_autoptr(GString) text = NULL;

    if (!e || e->aborting) {
        return;
    }
    qdict_put_str(manifest, "created", created);
    text = qobject_to_json_pretty(QOBJECT(manifest), true);
    g_string_append_c(text, '\n');
    e->manifest = g_strdup(text->str);
    hotsnap_epoch_run(e, "hotsnap/publish", publish_task);
}
