/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the memory image needs to know from QEMU: the stream's head, the list
 * of RAM blocks, and the device state.
 */
#include "qemu/osdep.h"
#include "internal.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#include "exec/ramlist.h"
#include "exec/target_page.h"
#include "hw/core/cpu.h"
#include "hw/xen/xen.h"
#include "io/channel-buffer.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "migration/qemu-file.h"
#include "migration/ram.h"
#include "migration/savevm.h"
#include "qapi/error.h"
#include "qemu/rcu.h"
#include "qobject/json-writer.h"
#include "system/hostmem.h"

/*
 * Section ids only tie the parts of one section together within a stream;
 * QEMU numbers its own from 0.
 */
#define RAM_SECTION_ID 0x48530000
#define RAM_VERSION_ID 4

static void snapshot_finished(void *opaque, const char *error)
{
    HotsnapEpoch *e = opaque;

    /* Nothing is left to save, or nothing will be kept. */
    hotsnap_dma_disarm();
    e->memory_error = g_strdup(error);
    qatomic_set(&e->memory_done, true);
    qemu_event_set(&e->memory_event);
}

/* Magic, version and configuration, as a mapped-ram migration writes them. */
static GByteArray *stream_head(void)
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
 * Guest RAM, which QEMU reaches through the memory core (dma.c). Everything
 * else belongs to a device that may write to it through a pointer: its own
 * memory, or a backend that it does not show to the guest (acpi-erst).
 */
static bool is_plain_ram(RAMBlock *rb)
{
    return object_dynamic_cast(rb->mr->owner, TYPE_MEMORY_BACKEND) &&
           memory_region_is_mapped(rb->mr);
}

static GArray *ram_blocks(void)
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

/* Main loop: what is looked at here does not change while an epoch is on. */
bool hotsnap_vmstate_plan(HotsnapEpoch *e, HotsnapMemoryPlan *plan,
                          Error **errp)
{
    CPUState *cpu;

    if (e->aborting) {
        error_setg(errp, "%s", e->abort_reason);
        return false;
    }
    if (xen_mode == XEN_EMULATE && e->engine == HOTSNAP_ENGINE_KVM) {
        error_setg(errp, "Emulated Xen keeps pointers into guest memory, "
                   "which engine 'kvm' cannot follow; use engine 'uffd'");
        return false;
    }
    plan->tids = g_array_new(false, true, sizeof(int));
    CPU_FOREACH(cpu) {
        int tid = cpu->thread_id;

        g_array_append_val(plan->tids, tid);
    }
    plan->head = stream_head();
    plan->blocks = ram_blocks();
    plan->image = g_build_filename(e->folder, "state", NULL);
    plan->sums = g_build_filename(e->folder, "state.sums", NULL);

    hs_snapshot_options_init(&plan->options);
    plan->options.engine = HotsnapEngine_str(e->engine);
    plan->options.image_path = plan->image;
    plan->options.sums_path = plan->sums;
    plan->options.bandwidth = e->bandwidth;
    plan->options.stream_head = plan->head->data;
    plan->options.stream_head_size = plan->head->len;
    plan->options.section_footer = migrate_get_current()->send_section_footer;
    plan->options.ram_section_id = RAM_SECTION_ID;
    plan->options.ram_version_id = RAM_VERSION_ID;
    plan->options.vcpu_tids = (const int *)plan->tids->data;
    plan->options.vcpu_tid_count = plan->tids->len;
    plan->options.on_finished = snapshot_finished;
    plan->options.opaque = e;
    plan->options.kvm_vm_fd = xen_mode == XEN_EMULATE ? -1
                                                      : hotsnap_kvm_vm_fd();
    plan->options.x_open_traps = e->open_traps;
    hotsnap_memory_watch(e);
    return true;
}

/*
 * Worker: it creates files, and touches every page of the staging buffer and
 * of the sums. RAM blocks stay where they are: who takes one away waits until
 * this is done (watch.c).
 */
hs_snapshot *hotsnap_vmstate_new_snapshot(HotsnapMemoryPlan *plan,
                                          Error **errp)
{
    char *error = NULL;
    hs_snapshot *s = hs_snapshot_new(&plan->options,
                                     (hs_ram_block *)plan->blocks->data,
                                     plan->blocks->len, &error);

    if (!s) {
        error_setg(errp, "%s", error);
        hs_string_free(error);
    }
    return s;
}

void hotsnap_vmstate_plan_clear(HotsnapMemoryPlan *plan)
{
    g_clear_pointer(&plan->tids, g_array_unref);
    g_clear_pointer(&plan->blocks, g_array_unref);
    g_clear_pointer(&plan->head, g_byte_array_unref);
    g_free(plan->image);
    g_free(plan->sums);
}

bool hotsnap_vmstate_save_devices(HotsnapEpoch *e, Error **errp)
{
    MigrationState *ms = migrate_get_current();
    JSONWriter *before = ms->vmdesc;
    QIOChannelBuffer *bioc;
    QEMUFile *f;
    int ret;

    if (!hotsnap_memory_is_the_same(errp)) {
        return false;
    }
    bioc = qio_channel_buffer_new(512 * 1024);
    f = qemu_file_new_output(QIO_CHANNEL(bioc));
    if (should_send_vmdesc()) {
        ms->vmdesc = json_writer_new(false);
        json_writer_start_object(ms->vmdesc, NULL);
        json_writer_int64(ms->vmdesc, "page_size", qemu_target_page_size());
        json_writer_start_array(ms->vmdesc, "devices");
    }
    ret = qemu_savevm_state_complete_precopy_non_iterable(f, false);
    if (!ret) {
        ret = qemu_fflush(f);
    }
    if (ms->vmdesc != before) {
        json_writer_free(ms->vmdesc);
        ms->vmdesc = before;
    }
    if (ret) {
        error_setg_errno(errp, -ret, "Cannot save the state of the devices");
    } else {
        e->tail = g_byte_array_sized_new(bioc->usage);
        g_byte_array_append(e->tail, bioc->data, bioc->usage);
    }
    qemu_fclose(f);
    object_unref(OBJECT(bioc));
    return !ret;
}
