/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a member says of itself: JSON for the coordinator and the manifest
 * (docs/formats/bundle.md).
 */
#include "qemu/osdep.h"
#include "internal.h"
#include "hw/boards.h"
#include "net/net.h"
#include "qapi/error.h"
#include "qemu-version.h"
#include "qobject/qjson.h"

QDict *hotsnap_report_pause(HotsnapPause *pause)
{
    QDict *json = qdict_new();
    QList *steps = qlist_new();

    for (unsigned i = 0; i < pause->count; i++) {
        QDict *step = qdict_new();

        qdict_put_str(step, "name", pause->step[i].name);
        qdict_put_int(step, "us", pause->step[i].us);
        qlist_append(steps, step);
    }
    qdict_put_int(json, "begin_ns", pause->begin_ns);
    qdict_put_int(json, "end_ns", pause->end_ns);
    qdict_put(json, "steps", steps);
    return json;
}

static char *boot_id(void)
{
    g_autofree char *id = NULL;

    if (!g_file_get_contents("/proc/sys/kernel/random/boot_id", &id, NULL,
                             NULL)) {
        return g_strdup("");
    }
    return g_strdup(g_strchomp(id));
}

QDict *hotsnap_report_host(HotsnapMember *m)
{
    QDict *json = qdict_new();
    QDict *info = qdict_new();
    g_autofree char *boot = boot_id();
    char *nics = hs_mediator_nics_json(m->mediator);

    qdict_put_obj(json, "nics", qobject_from_json(nics, NULL));
    hs_string_free(nics);
    qdict_put_str(info, "boot_id", boot);
    qdict_put(json, "info", info);
    return json;
}

static QList *argv_list(void)
{
    QList *list = qlist_new();
    g_autofree char *data = NULL;
    gsize size = 0;

    if (g_file_get_contents("/proc/self/cmdline", &data, &size, NULL)) {
        for (char *arg = data; arg < data + size; arg += strlen(arg) + 1) {
            qlist_append_str(list, arg);
        }
    }
    return list;
}

static void put_xxh3(QDict *json, const char *key, uint64_t xxh3)
{
    g_autofree char *hex = g_strdup_printf("%016" PRIx64, xxh3);

    qdict_put_str(json, key, hex);
}

static void put_file(QDict *json, HotsnapEpoch *e, const char *key,
                     const char *file)
{
    g_autofree char *path = g_strdup_printf("%s/%s", e->member->name, file);

    qdict_put_str(json, key, path);
}

static QDict *report_memory(HotsnapEpoch *e)
{
    hs_snapshot_stats s = { .struct_size = sizeof(s) };
    QDict *json = qdict_new();
    QDict *pages = qdict_new();

    hs_snapshot_get_stats(e->snapshot, &s);
    qdict_put_int(pages, "total", s.pages.total);
    qdict_put_int(pages, "zero", s.pages.zero);
    qdict_put_int(pages, "background", s.pages.background);
    qdict_put_int(pages, "guest_write", s.pages.guest_write);
    qdict_put_int(pages, "dma_write", s.pages.dma_write);
    qdict_put_int(pages, "kvm_write", s.pages.kvm_write);
    qdict_put_int(pages, "neighbors", s.pages.neighbors);

    put_file(json, e, "file", "state");
    put_file(json, e, "sums", "state.sums");
    put_xxh3(json, "sums_xxh3", s.sums_xxh3);
    qdict_put_int(json, "size", s.image_size);
    qdict_put_str(json, "engine", s.engine);
    qdict_put_bool(json, "direct_io", s.direct_io);
    qdict_put(json, "pages", pages);
    qdict_put_int(json, "copy_us", s.copy_us);
    qdict_put_int(json, "bytes_written", s.bytes_written);
    qdict_put_int(json, "faults", s.faults);
    qdict_put_int(json, "fault_us_max", s.fault_us_max);
    qdict_put_int(json, "fault_us_sum", s.fault_us_sum);
    qdict_put_int(json, "staging_full_waits", s.staging_full_waits);
    qdict_put_int(json, "arm_us", s.arm_us);
    qdict_put_int(json, "arm_passes", s.arm_passes);
    qdict_put_int(json, "arm_faults", s.arm_faults);
    qdict_put_int(json, "cut_pages", s.cut_pages);
    qdict_put_int(json, "cut_us", s.cut_us);
    return json;
}

static QList *report_disks(HotsnapEpoch *e)
{
    QList *list = qlist_new();

    for (int i = 0; i < e->disks->len; i++) {
        HotsnapDisk *d = &g_array_index(e->disks, HotsnapDisk, i);
        QDict *json = qdict_new();
        g_autofree char *sums = g_strdup_printf("disk-%d.sums", i);

        qdict_put_str(json, "device", d->device);
        qdict_put_str(json, "node", bdrv_get_node_name(d->base));
        qdict_put_str(json, "file", d->file);
        qdict_put_str(json, "format", d->format);
        qdict_put_str(json, "overlay", d->overlay_file);
        qdict_put_str(json, "overlay_node", bdrv_get_node_name(d->overlay));
        put_file(json, e, "sums", sums);
        put_xxh3(json, "sums_xxh3", d->sums_xxh3);
        qlist_append(list, json);
    }
    return list;
}

static QDict *report_channel(HotsnapEpoch *e)
{
    hs_mediator_stats s = { .struct_size = sizeof(s) };
    QDict *json = qdict_new();

    hs_mediator_get_stats(e->member->mediator, &s);
    put_file(json, e, "file", "channel.pcap");
    put_file(json, e, "vnet", "channel.vnet");
    put_xxh3(json, "pcap_xxh3", e->pcap_xxh3);
    put_xxh3(json, "vnet_xxh3", e->vnet_xxh3);
    qdict_put_int(json, "frames", s.recorded);
    qdict_put_int(json, "bytes", s.recorded_bytes);
    qdict_put_int(json, "unrecorded", s.unrecorded);
    qdict_put_int(json, "lost", s.lost);
    qdict_put_int(json, "dropped", s.dropped);
    qdict_put_int(json, "white_sent", s.white_sent);
    qdict_put_int(json, "white_received", s.white_received);
    qdict_put_int(json, "on_the_fly", s.on_the_fly);
    qdict_put_int(json, "held", s.held_to_guest);
    qdict_put_int(json, "held_broadcasts", s.held_from_guest);
    return json;
}

QDict *hotsnap_report_member(HotsnapEpoch *e)
{
    QDict *json = hotsnap_report_host(e->member);
    QDict *info = qdict_get_qdict(json, "info");
    MachineClass *mc = MACHINE_GET_CLASS(current_machine);

    qdict_put_str(json, "boot_id", qdict_get_str(info, "boot_id"));
    qdict_del(json, "info");
    qdict_put_str(json, "qemu", QEMU_FULL_VERSION);
    qdict_put_str(json, "machine", mc->name);
    qdict_put(json, "argv", argv_list());
    qdict_put(json, "memory", report_memory(e));
    qdict_put(json, "disks", report_disks(e));
    qdict_put(json, "channel", report_channel(e));
    return json;
}
