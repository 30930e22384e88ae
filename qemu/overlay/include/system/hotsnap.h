/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * HotSnap's interface to the rest of QEMU.
 */
#ifndef SYSTEM_HOTSNAP_H
#define SYSTEM_HOTSNAP_H

#include "qemu/atomic.h"

/* kvm_run.exit_reason: a vCPU is about to write to a page to be saved */
#define HOTSNAP_KVM_EXIT 0x4853

#ifdef CONFIG_HOTSNAP
/**
 * hotsnap_refuses: whether @what must wait for a snapshot to end
 *
 * True, with @errp set, while a snapshot or restore is in progress.
 * To be called with the BQL held.
 */
bool hotsnap_refuses(Error **errp, const char *what);

/**
 * hotsnap_loads_block: whether HotSnap brings the pages of a RAM block
 * @length: of the block in the stream
 * @pages_offset: where its pages lie in the file
 *
 * To be asked while a mapped-ram stream is loaded, before its pages are
 * read.  Returns 1 if nobody else must write them, 0 if not, -1 with
 * @errp set if the block is not the one that HotSnap has checked.
 */
int hotsnap_loads_block(const char *idstr, uint64_t length,
                        uint64_t pages_offset, Error **errp);

/**
 * hotsnap_kvm_init: tells of the VM's file descriptor in KVM
 */
void hotsnap_kvm_init(int vmfd);

/**
 * hotsnap_kvm_exit: answers an exit of reason HOTSNAP_KVM_EXIT
 * @exit: where the members of kvm_run's union begin
 *
 * Saves the page, so that the vCPU can go on.  To be called without the
 * BQL.  Returns kvm_cpu_exec()'s result for the exit: 0, or -1 after an
 * error.
 */
int hotsnap_kvm_exit(const void *exit);

/* Read only by the functions below, written by hotsnap/parts/dma.c. */
extern bool hotsnap_dma_armed;
extern bool hotsnap_dma_maps_kept;
void hotsnap_dma_save(const void *host, uint64_t size);
void hotsnap_dma_keep_map(const void *host, uint64_t size);
void hotsnap_dma_drop_map(const void *host);

/**
 * hotsnap_dma_write: QEMU is about to write @size bytes of guest RAM
 * @host: where in the RAMBlock's memory
 *
 * Any thread, with or without the BQL.
 */
static inline void hotsnap_dma_write(const void *host, uint64_t size)
{
    if (unlikely(qatomic_read(&hotsnap_dma_armed))) {
        hotsnap_dma_save(host, size);
    }
}

/**
 * hotsnap_dma_map: guest RAM was mapped for writing, at any time until
 * hotsnap_dma_unmap()
 */
static inline void hotsnap_dma_map(const void *host, uint64_t size)
{
    if (unlikely(hotsnap_dma_maps_kept)) {
        hotsnap_dma_keep_map(host, size);
    }
}

static inline void hotsnap_dma_unmap(const void *host)
{
    if (unlikely(hotsnap_dma_maps_kept)) {
        hotsnap_dma_drop_map(host);
    }
}
#else
static inline bool hotsnap_refuses(Error **errp, const char *what)
{
    return false;
}

static inline int hotsnap_loads_block(const char *idstr, uint64_t length,
                                      uint64_t pages_offset, Error **errp)
{
    return 0;
}

static inline void hotsnap_kvm_init(int vmfd)
{
}

static inline int hotsnap_kvm_exit(const void *exit)
{
    return -1;
}

static inline void hotsnap_dma_write(const void *host, uint64_t size)
{
}

static inline void hotsnap_dma_map(const void *host, uint64_t size)
{
}

static inline void hotsnap_dma_unmap(const void *host)
{
}
#endif

#endif
