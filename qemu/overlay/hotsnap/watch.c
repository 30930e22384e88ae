/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest memory that vanishes or changes its size during a snapshot.
 *
 * device_add and device_del are refused while a snapshot runs. But a
 * device_del from before takes effect when the guest agrees to it, whenever
 * that is; a backend can be deleted whose memory device is gone; and ACPI
 * tables change their size when the firmware first reads them.
 *
 *   before the cut   What is there at the cut must be what the image was made
 *                    for: hotsnap_memory_is_the_same().
 *   at any time      A block of the snapshot is about to be unmapped. The
 *                    library reads it until its copy is complete, so it has
 *                    to let go of it first: hs_snapshot_abort() returns when
 *                    it has.
 *
 * A block that is resized after the cut does no harm: the image has what
 * there was then, and the mapping is as large as the block may ever become.
 */
#include "qemu/osdep.h"
#include "internal.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#include "exec/ramlist.h"
#include "migration/ram.h"
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "qemu/rcu.h"

static HotsnapEpoch *watched;
static GHashTable *blocks; /* of the snapshot: host address -> length */

static GHashTable *blocks_now(void)
{
    GHashTable *now = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    RAMBlock *rb;

    RCU_READ_LOCK_GUARD();
    RAMBLOCK_FOREACH_MIGRATABLE(rb) {
        g_hash_table_insert(now, rb->host, g_memdup2(&rb->used_length,
                                                     sizeof(rb->used_length)));
    }
    return now;
}

bool hotsnap_memory_is_the_same(Error **errp)
{
    g_autoptr(GHashTable) now = blocks_now();
    bool same = g_hash_table_size(now) == g_hash_table_size(blocks);
    GHashTableIter iter;
    void *host, *length;

    g_hash_table_iter_init(&iter, now);
    while (same && g_hash_table_iter_next(&iter, &host, &length)) {
        const ram_addr_t *before = g_hash_table_lookup(blocks, host);

        same = before && *before == *(ram_addr_t *)length;
    }
    if (!same) {
        error_setg(errp, "Guest memory was plugged, unplugged or resized "
                   "while the snapshot was being prepared; take it again");
    }
    return same;
}

/*
 * With the BQL held, in the main loop or a vCPU's thread. So it is never in
 * the middle of the cut, for which the main loop has the BQL; and
 * hs_snapshot_abort() waits for nobody who needs it (dma.c).
 */
static void block_removed(RAMBlockNotifier *n, void *host, size_t size,
                          size_t max_size)
{
    HotsnapEpoch *e = watched;
    Error *err = NULL;

    if (!e || qatomic_read(&e->memory_done) ||
        !g_hash_table_contains(blocks, host)) {
        return;
    }
    /* The worker may be making it just now, and needs nobody for that. */
    qemu_event_wait(&e->made_event);
    error_setg(&err, "Guest memory was taken away during the snapshot: a "
               "device was unplugged, or a memory backend deleted");
    /* What a task, or the cut, makes of it is no news. */
    qatomic_set(&e->cancelled, true);
    /* An abort that is under way in another thread is waited for here. */
    WITH_QEMU_LOCK_GUARD(&e->made_lock) {
        if (e->made) {
            hs_snapshot_abort(e->made, error_get_pretty(err));
        }
    }
    if (e->aborting) {
        error_free(err); /* the reason is another */
        return;
    }
    hotsnap_local_failed(e->member, err);
}

static RAMBlockNotifier notifier = { .ram_block_removed = block_removed };

void hotsnap_memory_watch(HotsnapEpoch *e)
{
    watched = e;
    blocks = blocks_now();
    ram_block_notifier_add(&notifier);
}

void hotsnap_memory_unwatch(void)
{
    if (watched) {
        watched = NULL; /* removing the notifier calls it for each block */
        ram_block_notifier_remove(&notifier);
        g_clear_pointer(&blocks, g_hash_table_unref);
    }
}
