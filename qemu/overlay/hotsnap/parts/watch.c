/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest memory that vanishes or changes its size during a snapshot.
 *
 * device_add and device_del are refused while a snapshot runs. But a
 * device_del from before takes effect when the guest agrees to it, whenever
 * that is; a backend can be deleted whose memory device is gone; and ACPI
 * tables change their size when the firmware first reads them.
 *
 *   before the cut   The blocks at the cut must be those that the image was
 *                    made for: hotsnap_watch_holds().
 *   at any time      A block of the snapshot is about to be unmapped. The
 *                    library reads it until its copy is complete, so it has
 *                    to let go of the block first.
 *
 * A block that is resized after the cut does no harm: the image has its
 * content at the cut, and the mapping is as large as the block may ever
 * become.
 */
#include "qemu/osdep.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#include "exec/ramlist.h"
#include "migration/ram.h"
#include "qapi/error.h"
#include "qemu/rcu.h"
#include "watch.h"

static void (*on_vanish)(void *opaque); /* NULL: nothing is watched */
static void *on_vanish_opaque;
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

bool hotsnap_watch_holds(Error **errp)
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
 * With the BQL held, in the main loop or a vCPU's thread. So it never runs in
 * the middle of the cut, for which the main loop has the BQL.
 */
static void block_removed(RAMBlockNotifier *n, void *host, size_t size,
                          size_t max_size)
{
    if (on_vanish && g_hash_table_contains(blocks, host)) {
        on_vanish(on_vanish_opaque);
    }
}

static RAMBlockNotifier notifier = { .ram_block_removed = block_removed };

void hotsnap_watch_begin(void (*vanishes)(void *opaque), void *opaque)
{
    on_vanish = vanishes;
    on_vanish_opaque = opaque;
    blocks = blocks_now();
    ram_block_notifier_add(&notifier);
}

void hotsnap_watch_end(void)
{
    if (on_vanish) {
        on_vanish = NULL; /* removing the notifier calls it for each block */
        ram_block_notifier_remove(&notifier);
        g_clear_pointer(&blocks, g_hash_table_unref);
    }
}
