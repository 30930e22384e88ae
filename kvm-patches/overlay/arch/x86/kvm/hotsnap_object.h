/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * HotSnap: the object behind the descriptor, for hotsnap.c, which makes and arms
 * it, and hotsnap_trap.c, which looks into it at each write.
 */
#ifndef __KVM_X86_HOTSNAP_OBJECT_H
#define __KVM_X86_HOTSNAP_OBJECT_H

#include <linux/kvm_hotsnap.h>
#include <linux/list.h>
#include <linux/spinlock.h>
#include <linux/wait.h>

/* The traps by number; kvm_hotsnap.h knows that of TRAP_KVM. */
#define TRAP_GUEST	0
#define TRAP_KVM	1

struct hotsnap_region {
	unsigned long start, end;
	unsigned long *bitmap;
};

struct kvm_hotsnap {
	struct kvm *kvm;
	bool armed[2];		/* by trap; changes under slots_lock */

	spinlock_t ring_lock;	/* protects head, nr_spares, spares */
	u32 head;
	u32 nr_spares;
	struct list_head spares;
	wait_queue_head_t wait;

	/* Shared with user space, which may write anything there. */
	void *area;
	size_t area_bytes;
	struct kvm_hotsnap_ring *ring;
	struct kvm_hotsnap_entry *entries;
	void *pages;

	u64 nr_pages;		/* of all regions */
	u32 nr_entries;		/* a power of two */
	u32 nr_regions;
	struct hotsnap_region regions[];	/* by address */
};

/* The first region that ends after @hva; hotsnap_end() if there is none. */
const struct hotsnap_region *hotsnap_next(const struct kvm_hotsnap *hs,
					  unsigned long hva);

static inline const struct hotsnap_region *
hotsnap_end(const struct kvm_hotsnap *hs)
{
	return hs->regions + hs->nr_regions;
}

/* Moves the spares to the ring, as far as they fit now. */
void hotsnap_drain(struct kvm_hotsnap *hs);

void hotsnap_free_spares(struct kvm_hotsnap *hs);

#endif /* __KVM_X86_HOTSNAP_OBJECT_H */
