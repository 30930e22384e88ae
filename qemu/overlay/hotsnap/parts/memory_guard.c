/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "exec/memory.h"
#include "memory_guard.h"
#include "net/net.h"
#include "qapi/error.h"
#include "qom/object.h"

/*
 * Memory that another process maps can change without a trap. QEMU cannot see
 * which processes map it, only which ones were given it: vhost-user backends.
 */
static bool check_vhost_user(Error **errp)
{
    NetClientState *ncs[MAX_QUEUE_NUM];
    int n = qemu_find_net_clients_except(NULL, ncs, NET_CLIENT_DRIVER_NIC,
                                         MAX_QUEUE_NUM);

    for (int i = 0; i < MIN(n, MAX_QUEUE_NUM); i++) {
        if (ncs[i]->info->type == NET_CLIENT_DRIVER_VHOST_USER) {
            error_setg(errp, "Network backend '%s' (vhost-user) writes guest "
                       "memory from another process; use a tap backend with "
                       "vhost=off", ncs[i]->name);
            return false;
        }
    }
    return true;
}

/* hv-balloon discards without asking whether it may. */
static int find_bad_device(Object *obj, void *opaque)
{
    const char **found = opaque;
    const char *type = object_get_typename(obj);

    if (!*found && (g_str_has_prefix(type, "vhost-user-") ||
                    g_str_has_prefix(type, "vhost-vsock") ||
                    g_str_has_prefix(type, "vhost-scsi") ||
                    !strcmp(type, "hv-balloon"))) {
        *found = type;
    }
    return 0;
}

/*
 * A user that has guest memory pinned, for hardware or for another program to
 * write to, forbids that it be discarded: the pages would be exchanged under
 * the writer. VFIO does, nvme:// disks, libblkio's drivers, vhost-vdpa, SEV.
 * (Two more forbid it and have no snapshot beside them: COLO, and KVM without
 * the MMU notifiers that every x86 host has.) Our own ban comes later.
 */
static bool check_pinned(Error **errp)
{
    if (ram_block_discard_is_disabled()) {
        error_setg(errp, "Guest memory is pinned, by a VFIO or vDPA device, "
                   "a disk with driver nvme or of libblkio, or SEV, and "
                   "changes without a trap; use devices and disks that QEMU "
                   "emulates itself");
        return false;
    }
    return true;
}

bool hotsnap_memory_guard_check(Error **errp)
{
    const char *bad = NULL;

    if (!check_vhost_user(errp)) {
        return false;
    }
    object_child_foreach_recursive(object_get_root(), find_bad_device, &bad);
    if (bad) {
        error_setg(errp, "Device '%s' changes guest memory behind QEMU's "
                   "back; use a device that QEMU emulates itself", bad);
        return false;
    }
    return check_pinned(errp);
}
