/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "exec/memory.h"
#include "guard.h"
#include "migration/blocker.h"
#include "migration/migration.h"
#include "migration/misc.h"
#include "qapi/error.h"
#include "system/runstate.h"

static bool closed;

void hotsnap_guard_close(void)
{
    closed = true;
}

bool hotsnap_guard_is_open(Error **errp)
{
    if (closed) {
        error_setg(errp, "The VM is being shut down");
    }
    return !closed;
}

bool hotsnap_guard_check(Error **errp)
{
    Error *blocked = NULL;

    if (!hotsnap_guard_is_open(errp)) {
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
    return true;
}

bool hotsnap_guard_enter(HotsnapGuard *g, const char *why, Error **errp)
{
    /* Ballooning goes quiet, virtio-mem and the like refuse. */
    if (ram_block_discard_disable(true)) {
        error_setg(errp, "A device relies on discarding guest memory "
                   "(virtio-mem or similar); remove the device");
        return false;
    }
    g->discard_disabled = true;
    error_setg(&g->migration_blocker, "%s", why);
    return !migrate_add_blocker_internal(&g->migration_blocker, errp);
}

void hotsnap_guard_leave(HotsnapGuard *g)
{
    if (g->discard_disabled) {
        ram_block_discard_disable(false);
        g->discard_disabled = false;
    }
    migrate_del_blocker(&g->migration_blocker);
}

void hotsnap_guard_lift(HotsnapGuard *g)
{
    hotsnap_guard_leave(g);
}

void hotsnap_guard_put_up(HotsnapGuard *g, const char *why)
{
    /* Nobody else had a turn, so nothing can be in its way. */
    hotsnap_guard_enter(g, why, &error_abort);
}
