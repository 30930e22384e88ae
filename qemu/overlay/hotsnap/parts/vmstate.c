/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#include "exec/ramlist.h"
#include "exec/target_page.h"
#include "hw/core/cpu.h"
#include "io/channel-buffer.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "migration/qemu-file.h"
#include "migration/ram.h"
#include "migration/savevm.h"
#include "qapi/error.h"
#include "qemu/rcu.h"
#include "system/hostmem.h"
#include "vmstate.h"

GByteArray *hotsnap_vmstate_head(void)
{
    MigrationState *ms = migrate_get_current();
    bool *capability = &ms->capabilities[MIGRATION_CAPABILITY_MAPPED_RAM];
    QIOChannelBuffer *bioc = qio_channel_buffer_new(4096);
    QEMUFile *f = qemu_file_new_output(QIO_CHANNEL(bioc));
    GByteArray *head = g_byte_array_new();
    bool before = *capability;

    /*
     * The configuration section names the capabilities that the other side
     * has to have. Nobody can see the change: the BQL is held, and no
     * migration runs.
     */
    *capability = true;
    qemu_savevm_state_header(f);
    *capability = before;
    qemu_fflush(f);
    g_byte_array_append(head, bioc->data, bioc->usage);
    qemu_fclose(f);
    object_unref(OBJECT(bioc));
    return head;
}

/*
 * Guest RAM, which QEMU reaches through the memory core (dma.c). Every other
 * block belongs to a device that may write to it through a pointer: its own
 * memory, or a backend that it does not show to the guest (acpi-erst).
 */
static bool is_plain_ram(RAMBlock *rb)
{
    return object_dynamic_cast(rb->mr->owner, TYPE_MEMORY_BACKEND) &&
           memory_region_is_mapped(rb->mr);
}

GArray *hotsnap_vmstate_blocks(void)
{
    GArray *blocks = g_array_new(false, true, sizeof(hs_ram_block));
    RAMBlock *rb;

    RCU_READ_LOCK_GUARD();
    RAMBLOCK_FOREACH_MIGRATABLE(rb) {
        hs_ram_block b = {
            .idstr = rb->idstr,
            .host = rb->host,
            .length = rb->used_length,
            .page_size = qemu_ram_pagesize(rb),
            .fd = qemu_ram_get_fd(rb),
            .fd_offset = rb->fd_offset,
            .shared = qemu_ram_is_shared(rb),
            .read_only = rb->flags & RAM_READONLY,
            .save_at_cut = !is_plain_ram(rb),
        };

        if (b.length) {
            g_array_append_val(blocks, b);
        }
    }
    return blocks;
}

GArray *hotsnap_vmstate_vcpus(void)
{
    GArray *tids = g_array_new(false, true, sizeof(int));
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        int tid = cpu->thread_id;

        g_array_append_val(tids, tid);
    }
    return tids;
}

bool hotsnap_vmstate_has_footers(void)
{
    return migrate_get_current()->send_section_footer;
}

/*
 * QEMU ends a stream with a description of all fields, for people who take it
 * apart (scripts/analyze-migration.py). To make it takes longer than to save
 * the devices, and the VM stands still meanwhile. Loaders skip it; some
 * complain if there is none, so one without a device is there.
 */
static void put_empty_description(QEMUFile *f)
{
    g_autofree char *text = g_strdup_printf(
        "{\"page_size\": %zu, \"devices\": []}", qemu_target_page_size());

    qemu_put_byte(f, QEMU_VM_VMDESCRIPTION);
    qemu_put_be32(f, strlen(text));
    qemu_put_buffer(f, (const uint8_t *)text, strlen(text));
}

GByteArray *hotsnap_vmstate_devices(Error **errp)
{
    MigrationState *ms = migrate_get_current();
    JSONWriter *before = ms->vmdesc;
    GByteArray *tail = NULL;
    QIOChannelBuffer *bioc = qio_channel_buffer_new(512 * 1024);
    QEMUFile *f = qemu_file_new_output(QIO_CHANNEL(bioc));
    int ret;

    ms->vmdesc = NULL;
    ret = qemu_savevm_state_complete_precopy_non_iterable(f, false);
    ms->vmdesc = before;
    if (!ret && should_send_vmdesc()) {
        put_empty_description(f);
    }
    if (!ret) {
        ret = qemu_fflush(f);
    }
    if (ret) {
        error_setg_errno(errp, -ret, "Cannot save the state of the devices");
    } else {
        tail = g_byte_array_new_take(g_steal_pointer(&bioc->data),
                                     bioc->usage);
    }
    qemu_fclose(f);
    object_unref(OBJECT(bioc));
    return tail;
}
