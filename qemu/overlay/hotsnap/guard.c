/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a snapshot refuses before it begins, and what it forbids while it
 * runs: migration, hot-plug (hotsnap_refuses), discarding of memory. What it
 * cannot forbid ends it (watch.c, shutdown.c).
 */
#include "qemu/osdep.h"
#include "internal.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#include "hw/qdev-core.h"
#include "migration/blocker.h"
#include "migration/migration.h"
#include "migration/misc.h"
#include "migration/ram.h"
#include "net/net.h"
#include "net/vhost_net.h"
#include "qapi/error.h"
#include "qemu/rcu.h"
#include "system/runstate.h"

typedef struct NicCheck {
    HotsnapMember *member;
    Error **errp;
    bool ok;
} NicCheck;

static void check_nic(NICState *nic, void *opaque)
{
    NicCheck *c = opaque;
    NetClientState *nc = qemu_get_queue(nic);
    NetClientState *peer = nc->peer;

    if (!c->ok || !peer) {
        return; /* without a backend no frame ever leaves */
    }
    if (get_vhost_net(peer)) {
        error_setg(c->errp, "Packets of NIC '%s' bypass QEMU (vhost); use "
                   "-netdev tap,...,vhost=off", nc->name);
        c->ok = false;
    } else if (nic->conf->peers.queues > 1) {
        error_setg(c->errp, "NIC '%s' has several queues, which keep no "
                   "common order of frames; use queues=1 on its netdev",
                   nc->name);
        c->ok = false;
    } else if (peer->vnet_hdr_len > 12) {
        error_setg(c->errp, "NIC '%s' puts a hash into the header of each "
                   "packet, which cannot be recorded; use hash=off on its "
                   "device", nc->name);
        c->ok = false;
    } else if (!hotsnap_filter_for_netdev(c->member, peer)) {
        error_setg(c->errp, "Network backend '%s' of NIC '%s' has no packet "
                   "mediator; start QEMU with -object "
                   "filter-hotsnap,id=ID,netdev=%s,member=ID",
                   peer->name, nc->name, peer->name);
        c->ok = false;
    }
}

/*
 * Memory that another process maps can change without a trap. QEMU cannot
 * see who maps it, only who was given it: vhost-user backends.
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
 * Who has guest memory pinned, for hardware or for another program to write
 * to, forbids that it be discarded: the pages would be exchanged under him.
 * VFIO does, nvme:// disks, libblkio's drivers, vhost-vdpa, SEV. (Others who
 * forbid it have no snapshot beside them: COLO, and KVM without the
 * MMU notifiers that every x86 host has.) Our own ban comes later.
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

bool hotsnap_guard_check(HotsnapMember *m, Error **errp)
{
    NicCheck nics = { .member = m, .errp = errp, .ok = true };
    const char *bad = NULL;
    Error *blocked = NULL;

    if (m->epoch || m->restoring || m->restored) {
        error_setg(errp, "A snapshot or restore is in progress already");
        return false;
    }
    if (hotsnap_shutting_down()) {
        error_setg(errp, "The VM is being shut down");
        return false;
    }
    if (runstate_check(RUN_STATE_INMIGRATE)) {
        error_setg(errp, "The VM waits for an incoming migration");
        return false;
    }
    if (migration_is_running()) {
        error_setg(errp, "A migration is in progress; wait for it to end, or "
                   "use migrate_cancel");
        return false;
    }
    if (migration_is_blocked(&blocked)) {
        error_setg(errp, "%s; what cannot be migrated cannot be in a "
                   "snapshot: remove the device", error_get_pretty(blocked));
        error_free(blocked);
        return false;
    }
    if (!check_vhost_user(errp)) {
        return false;
    }
    object_child_foreach_recursive(object_get_root(), find_bad_device, &bad);
    if (bad) {
        error_setg(errp, "Device '%s' changes guest memory behind QEMU's "
                   "back; use a device that QEMU emulates itself", bad);
        return false;
    }
    if (!check_pinned(errp)) {
        return false;
    }
    qemu_foreach_nic(check_nic, &nics);
    return nics.ok;
}

bool hotsnap_guard_enter(HotsnapEpoch *e, Error **errp)
{
    /* Ballooning goes quiet, virtio-mem and the like refuse. */
    if (ram_block_discard_disable(true)) {
        error_setg(errp, "A device relies on discarding guest memory "
                   "(virtio-mem or similar); remove the device");
        return false;
    }
    e->discard_disabled = true;
    error_setg(&e->migration_blocker, "A cluster snapshot is in progress");
    return !migrate_add_blocker_internal(&e->migration_blocker, errp);
}

void hotsnap_guard_leave(HotsnapEpoch *e)
{
    hotsnap_memory_unwatch();
    if (e->discard_disabled) {
        ram_block_discard_disable(false);
        e->discard_disabled = false;
    }
    migrate_del_blocker(&e->migration_blocker);
}
