/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From the transient to the full snapshot: what is left to do while the VM
 * runs again, and the bundle's publication by the initiator.
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

static bool write_channel(HotsnapEpoch *e, Error **errp)
{
    g_autofree char *pcap = g_build_filename(e->folder, "channel.pcap", NULL);
    g_autofree char *vnet = g_build_filename(e->folder, "channel.vnet", NULL);
    char *error = NULL;

    if (!hs_mediator_write_channel(e->member->mediator, pcap, vnet, &error)) {
        error_setg(errp, "%s", error);
        hs_string_free(error);
        return false;
    }
    return true;
}

typedef struct FinishCall {
    HotsnapEpoch *e;
    QDict *report;
    Error *err;
} FinishCall;

/* In the main loop, where the mediator and the disks may be looked at. */
static void finish_in_main(void *opaque)
{
    FinishCall *call = opaque;
    HotsnapEpoch *e = call->e;

    if (e->aborting) {
        error_setg(&call->err, "%s", e->abort_reason);
    } else if (write_channel(e, &call->err)) {
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
            hotsnap_call_main(m, finish_in_main, &call);
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
 * The one instant at which the snapshot comes into being: the rename. All
 * members' files are durable by now; the manifest is made so before it.
 */
void hotsnap_publish(HotsnapMember *m, QDict *manifest)
{
    HotsnapEpoch *e = m->epoch;
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    g_autofree char *created = g_date_time_format_iso8601(now);
    g_autoptr(GString) text = NULL;
    g_autofree char *partial = NULL;
    g_autofree char *final = NULL;
    g_autofree char *parent = NULL;
    g_autofree char *path = NULL;
    Error *err = NULL;

    if (!e || e->aborting) {
        return;
    }
    partial = g_path_get_dirname(e->folder);
    parent = g_path_get_dirname(partial);
    final = g_build_filename(parent, e->tag, NULL);
    path = g_build_filename(partial, "manifest.json", NULL);

    qdict_put_str(manifest, "created", created);
    text = qobject_to_json_pretty(QOBJECT(manifest), true);
    g_string_append_c(text, '\n');
    if (write_durably(path, text->str, text->len, &err) &&
        sync_folder(partial, &err)) {
        /* Not over an existing bundle, however it came there. */
        if (renameat2(AT_FDCWD, partial, AT_FDCWD, final, RENAME_NOREPLACE)) {
            error_setg_errno(&err, errno, "Cannot rename '%s' to '%s'",
                             partial, final);
        } else {
            Error *sync_err = NULL;

            if (!sync_folder(parent, &sync_err)) {
                warn_report_err(sync_err);
            }
            hotsnap_local(m, HS_LOCAL_PUBLISHED, NULL);
            return;
        }
    }
    unlink(path);
    hotsnap_local_failed(m, err);
}
