/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Engine "kvm": writes that QEMU and its vCPUs are about to do.
 *
 * A patched KVM traps writes of guests and of KVM itself, but QEMU's own
 * stores to guest RAM need no KVM. They are caught in one layer, the few
 * places of the memory core through which device emulation reaches guest RAM:
 *
 *   flatview_write_continue_step()     address_space_write(), dma_memory_write
 *   address_space_write_rom()          firmware after a reset, gdb
 *   address_space_st*()                also through MemoryRegionCache
 *   address_space_write_cached()       vrings
 *   address_space_map()                for writing: block and network I/O
 *
 * Each announces its write (hotsnap_dma_write(), hotsnap_dma_map()). A
 * mapping may be written to at any time until it is unmapped. Most last for
 * one request, and the pause drains those. Others stay for long: AHCI's
 * command list and received FIS, a request that waits for its device. So
 * mappings are kept in a table, and those that are open at the cut are saved
 * in the pause.
 *
 * Memory that is not plain guest RAM (video memory, ACPI tables, ROMs) is
 * written by its device through a pointer. It is saved in the pause as a
 * whole (hs_ram_block.save_at_cut).
 *
 * The snapshot's lifetime: threads that call the library are counted. Such a
 * thread may lack the BQL, and waits for nothing that needs the BQL, so
 * hotsnap_dma_disarm() may wait for the count to be 0 while holding it. RCU
 * would not do: a reader may be waiting for the BQL, in an MMIO access.
 */
#include "qemu/osdep.h"
#include "dma.h"
#include "system/hotsnap.h"
#include "qemu/atomic.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"

typedef struct KeptMap {
    uint64_t size;    /* the largest */
    unsigned count;
} KeptMap;

QEMU_BUILD_BUG_ON(HOTSNAP_KVM_EXIT != HS_KVM_EXIT);

bool hotsnap_dma_armed;
bool hotsnap_dma_maps_kept; /* does not change once devices exist */

static int kvm_vm_fd = -1;
static hs_snapshot *armed_snapshot; /* atomic; not NULL from cut to end */
static int callers; /* atomic: threads that may use armed_snapshot */

static QemuMutex maps_lock; /* protects maps */
static GHashTable *maps; /* host address -> KeptMap */

/* Pairs with hotsnap_dma_disarm(): it sees the count, or we see NULL. */
static hs_snapshot *snapshot_enter(void)
{
    qatomic_inc(&callers);
    return qatomic_read(&armed_snapshot);
}

static void snapshot_leave(void)
{
    qatomic_dec(&callers);
}

void hotsnap_kvm_init(int vmfd)
{
    kvm_vm_fd = vmfd;
    if (hs_kvm_offered(vmfd)) {
        qemu_mutex_init(&maps_lock);
        maps = g_hash_table_new_full(NULL, NULL, NULL, g_free);
        hotsnap_dma_maps_kept = true;
    }
}

int hotsnap_kvm_vm_fd(void)
{
    return kvm_vm_fd;
}

int hotsnap_kvm_exit(const void *exit)
{
    const hs_kvm_exit *e = exit;
    hs_snapshot *s = snapshot_enter();
    bool ok = !s || hs_snapshot_guest_write(s, (void *)(uintptr_t)e->hva);

    snapshot_leave();
    if (!ok) {
        error_report("KVM trapped a write to 0x%" PRIx64 ", which is not in "
                     "the snapshot's memory", e->gpa);
        return -1;
    }
    return 0;
}

void hotsnap_dma_save(const void *host, uint64_t size)
{
    hs_snapshot *s = snapshot_enter();

    if (s) {
        hs_snapshot_dma_write(s, host, size);
    }
    snapshot_leave();
}

void hotsnap_dma_keep_map(const void *host, uint64_t size)
{
    WITH_QEMU_LOCK_GUARD(&maps_lock) {
        KeptMap *map = g_hash_table_lookup(maps, host);

        if (!map) {
            map = g_new0(KeptMap, 1);
            g_hash_table_insert(maps, (void *)host, map);
        }
        map->count++;
        map->size = MAX(map->size, size);
    }
    hotsnap_dma_write(host, size);
}

void hotsnap_dma_drop_map(const void *host)
{
    QEMU_LOCK_GUARD(&maps_lock);
    KeptMap *map = g_hash_table_lookup(maps, host);

    if (map && !--map->count) {
        g_hash_table_remove(maps, host);
    }
}

void hotsnap_dma_arm(hs_snapshot *s)
{
    GHashTableIter iter;
    void *host, *value;

    qatomic_set(&armed_snapshot, s);
    WITH_QEMU_LOCK_GUARD(&maps_lock) {
        g_hash_table_iter_init(&iter, maps);
        while (g_hash_table_iter_next(&iter, &host, &value)) {
            hs_snapshot_dma_write(s, host, ((KeptMap *)value)->size);
        }
    }
    qatomic_set(&hotsnap_dma_armed, true);
}

void hotsnap_dma_disarm(void)
{
    qatomic_set(&hotsnap_dma_armed, false);
    qatomic_set(&armed_snapshot, NULL);
    /* Callers that did not see NULL are counted: see snapshot_enter(). */
    smp_mb();
    while (qatomic_read(&callers)) {
        g_thread_yield();
    }
}
