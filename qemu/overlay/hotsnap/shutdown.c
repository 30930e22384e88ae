/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU ends while a snapshot runs: a monitor's 'quit', the guest's power-off,
 * a signal. The snapshot holds disks, which must be given back before QEMU
 * closes them all, and data written since the cut lies in overlays that nobody
 * would look for after the next start. So the snapshot is given up first.
 */
#include "qemu/osdep.h"
#include "block/aio-wait.h"
#include "guard.h"
#include "lazy.h"
#include "local.h"
#include "member.h"
#include "parts/disk_undo.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/notify.h"
#include "system/runstate-action.h"
#include "system/runstate.h"
#include "system/system.h"

static bool is_saving(HotsnapMember *m)
{
    return m && hotsnap_local_saving(m->local);
}

static void on_shutdown(Notifier *notifier, void *data)
{
    HotsnapMember *m = hotsnap_member(NULL);

    if (shutdown_action == SHUTDOWN_ACTION_PAUSE) {
        return; /* QEMU lives on (-no-shutdown), and so does the snapshot */
    }
    hotsnap_guard_close();
    hotsnap_lazy_shutdown();
    if (!is_saving(m) && !hotsnap_disks_undoing()) {
        return;
    }
    /* QEMU's own next step. A guest that writes would delay the commit. */
    vm_shutdown();
    if (is_saving(m)) {
        g_autofree char *reason =
            g_strdup_printf("The VM '%s' was shut down during the snapshot",
                            m->name);

        hotsnap_local_fail(m->local, reason);
    }
    /*
     * The coordinator answers with an ABORT; or, when this member has
     * promised its part, with the initiator's word or after its silence.
     */
    while (is_saving(m) || hotsnap_disks_undoing()) {
        aio_poll(qemu_get_aio_context(), true);
    }
}

static Notifier shutdown_notifier = { .notify = on_shutdown };

static void hotsnap_shutdown_register(void)
{
    qemu_register_shutdown_notifier(&shutdown_notifier);
}

type_init(hotsnap_shutdown_register);
