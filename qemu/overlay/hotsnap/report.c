/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "hw/boards.h"
#include "qapi/util.h"
#include "qemu-version.h"
#include "qobject/qlist.h"
#include "report.h"

char *hotsnap_report_boot_id(void)
{
    char *id = NULL;

    if (!g_file_get_contents("/proc/sys/kernel/random/boot_id", &id, NULL,
                             NULL)) {
        return g_strdup("");
    }
    return g_strchomp(id);
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

void hotsnap_report_host(QDict *json)
{
    g_autofree char *boot_id = hotsnap_report_boot_id();
    MachineClass *mc = MACHINE_GET_CLASS(current_machine);

    qdict_put_str(json, "boot_id", boot_id);
    qdict_put_str(json, "qemu", QEMU_FULL_VERSION);
    qdict_put_str(json, "machine", mc->name);
    qdict_put(json, "argv", argv_list());
}

void hotsnap_report_pause_info(const hs_pause *pause,
                               HotsnapSnapshotInfo *info)
{
    HotsnapPauseStepList **tail = &info->pause_steps;

    uint64_t us = (pause->end_ns - pause->begin_ns) / 1000;

    if (info->content == HOTSNAP_CONTENT_ALL) {
        info->pause_us = us;
    } else {
        info->hold_us = us;
    }
    for (unsigned i = 0; i < pause->count; i++) {
        HotsnapPauseStep *step = g_new0(HotsnapPauseStep, 1);

        step->name = g_strdup(pause->step[i].name);
        step->us = pause->step[i].us;
        QAPI_LIST_APPEND(tail, step);
    }
}
