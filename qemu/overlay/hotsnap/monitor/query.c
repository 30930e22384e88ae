/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * query-hotsnap.
 */
#include "qemu/osdep.h"
#include "../lazy.h"
#include "../local.h"
#include "../member.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-hotsnap.h"

HotsnapInfo *qmp_query_hotsnap(Error **errp)
{
    HotsnapMember *m = hotsnap_member(NULL);
    HotsnapInfo *info = g_new0(HotsnapInfo, 1);

    if (!m) {
        info->role = g_strdup("none");
        return info;
    }
    info->name = g_strdup(m->name);
    info->address = g_strdup(m->listen);
    info->phase = m->phase;
    info->role = g_strdup(m->role);
    info->epoch = m->epoch;
    info->error = g_strdup(m->error);
    info->snapshot = hotsnap_local_info(m->local);
    info->memory_load = hotsnap_lazy_info();
    if (!hotsnap_network_is_unused(&m->network)) {
        info->mediator = hotsnap_network_info(&m->network);
    }
    return info;
}
