// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * HotSnap: the traps themselves. The MMU's questions when a guest faults, KVM's
 * calls before it writes, and the ring to which KVM then saves pages. See
 * hotsnap.c for the rules.
 */
#include <linux/mm.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "hotsnap.h"
#include "hotsnap_object.h"

/* A page that found the ring full. */
struct hotsnap_spare {
	struct list_head link;
	unsigned long addr;
	void *page;
};

const struct hotsnap_region *hotsnap_next(const struct kvm_hotsnap *hs,
					  unsigned long hva)
{
	u32 low = 0, high = hs->nr_regions;

	while (low < high) {
		u32 middle = (low + high) / 2;

		if (hva >= hs->regions[middle].end)
			low = middle + 1;
		else
			high = middle;
	}
	return hs->regions + low;
}

/* Is any page of the range not saved? Does not sleep. */
bool __kvm_hotsnap_unsaved(struct kvm *kvm, unsigned long hva,
			   unsigned long nr_pages, u32 trap)
{
	const struct kvm_hotsnap *hs = READ_ONCE(kvm->arch.hotsnap);
	unsigned long end = hva + nr_pages * PAGE_SIZE;
	const struct hotsnap_region *r;

	if (!hs || !READ_ONCE(hs->armed[trap]))
		return false;
	for (r = hotsnap_next(hs, hva);
	     r < hotsnap_end(hs) && r->start < end; r++) {
		unsigned long first, last;

		first = (max(hva, r->start) - r->start) >> PAGE_SHIFT;
		last = (min(end, r->end) - r->start) >> PAGE_SHIFT;
		if (find_next_zero_bit(r->bitmap, last, first) < last)
			return true;
	}
	return false;
}

bool kvm_hotsnap_range_unsaved(struct kvm *kvm,
			       const struct kvm_memory_slot *slot, gfn_t gfn,
			       int level)
{
	unsigned long nr_pages = KVM_PAGES_PER_HPAGE(level);

	gfn &= ~((gfn_t)nr_pages - 1);
	if (!slot || gfn < slot->base_gfn ||
	    gfn + nr_pages > slot->base_gfn + slot->npages)
		return false;
	return __kvm_hotsnap_unsaved(kvm, __gfn_to_hva_memslot(slot, gfn),
				     nr_pages, TRAP_GUEST);
}

/* The largest mapping whose pages are all saved. */
u8 kvm_hotsnap_max_level(struct kvm *kvm, const struct kvm_page_fault *fault)
{
	u8 level = PG_LEVEL_4K;

	/* One that does not fit into the slot is no candidate anyway. */
	while (level < fault->max_level &&
	       !kvm_hotsnap_range_unsaved(kvm, fault->slot, fault->gfn,
					  level + 1))
		level++;
	return level;
}

/*
 * A guest faulted. Returns RET_PF_USER, with kvm_run filled in, when user space
 * must save the page first; else RET_PF_CONTINUE.
 */
int kvm_hotsnap_guest_write(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	struct kvm_hotsnap *hs = READ_ONCE(vcpu->kvm->arch.hotsnap);
	struct kvm_hotsnap_exit *exit = (void *)&vcpu->run->hw;

	if (!fault->write ||
	    !kvm_hotsnap_range_unsaved(vcpu->kvm, fault->slot, fault->gfn,
				       PG_LEVEL_4K))
		return RET_PF_CONTINUE;
	/* Not the vCPU's own instruction, which it will come to later. */
	if (fault->prefetch)
		return RET_PF_RETRY;
	vcpu->run->exit_reason = KVM_EXIT_HOTSNAP;
	exit->gpa = gfn_to_gpa(fault->gfn);
	exit->hva = __gfn_to_hva_memslot(fault->slot, fault->gfn);
	/* A statistic: a lost count does no harm. */
	WRITE_ONCE(hs->ring->exits, READ_ONCE(hs->ring->exits) + 1);
	return RET_PF_USER;
}

/* The ring. */

static void *hotsnap_page_of(struct kvm_hotsnap *hs, u32 index)
{
	return hs->pages + (size_t)(index & (hs->nr_entries - 1)) * PAGE_SIZE;
}

static struct kvm_hotsnap_entry *hotsnap_entry_of(struct kvm_hotsnap *hs,
						  u32 index)
{
	return &hs->entries[index & (hs->nr_entries - 1)];
}

/* Hands out the next entry, if there is room. Under ring_lock. */
static bool hotsnap_reserve(struct kvm_hotsnap *hs, u32 *index)
{
	/* Pairs with user space, which has read an entry before it takes it. */
	u32 tail = smp_load_acquire(&hs->ring->tail);

	if (hs->head - tail >= hs->nr_entries)
		return false;
	*index = hs->head;
	WRITE_ONCE(hotsnap_entry_of(hs, *index)->state,
		   KVM_HOTSNAP_ENTRY_EMPTY);
	WRITE_ONCE(hs->head, hs->head + 1); /* poll() looks without the lock */
	smp_store_release(&hs->ring->head, hs->head);
	return true;
}

static void hotsnap_publish(struct kvm_hotsnap *hs, u32 index,
			    unsigned long addr, u32 state)
{
	struct kvm_hotsnap_entry *entry = hotsnap_entry_of(hs, index);

	entry->addr = addr;
	/* Pairs with user space, which reads the page after the state. */
	smp_store_release(&entry->state, state);
	wake_up_poll(&hs->wait, EPOLLIN);
}

static void hotsnap_free_spare(struct hotsnap_spare *spare)
{
	free_page((unsigned long)spare->page);
	kfree(spare);
}

void hotsnap_free_spares(struct kvm_hotsnap *hs)
{
	struct hotsnap_spare *spare, *next;

	list_for_each_entry_safe(spare, next, &hs->spares, link)
		hotsnap_free_spare(spare);
}

/*
 * Memory of the process that drives the VM, charged to it. No more spares than
 * pages: bits that user space clears again must not make KVM fill all memory.
 */
static struct hotsnap_spare *hotsnap_alloc_spare(struct kvm_hotsnap *hs)
{
	const gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_NORETRY | __GFP_NOWARN;
	struct hotsnap_spare *spare;

	if (READ_ONCE(hs->nr_spares) >= hs->nr_pages)
		return NULL;
	spare = kmalloc(sizeof(*spare), gfp);
	if (!spare)
		return NULL;
	spare->page = (void *)__get_free_page(gfp);
	if (!spare->page) {
		kfree(spare);
		return NULL;
	}
	return spare;
}

/*
 * There is no copy of this page. The guest comes first: it goes on as if there
 * were one, and user space gives the snapshot up.
 */
static void hotsnap_lose(struct kvm_hotsnap *hs, unsigned long nr,
			 unsigned long *bitmap)
{
	spin_lock(&hs->ring_lock);
	WRITE_ONCE(hs->ring->lost, READ_ONCE(hs->ring->lost) + 1);
	spin_unlock(&hs->ring_lock);
	set_bit(nr, bitmap);
	wake_up_poll(&hs->wait, EPOLLIN);
}

/*
 * Copies the page at @addr, unless it is saved by then. Fails only if the page
 * cannot be read, and then it cannot be written either.
 */
static int hotsnap_save(struct kvm_hotsnap *hs, unsigned long addr,
			unsigned long nr, unsigned long *bitmap)
{
	struct hotsnap_spare *spare = NULL;
	void *to;
	u32 index;
	bool room;

	spin_lock(&hs->ring_lock);
	/* After the waiting spares: the order is that of the writes. */
	room = !hs->nr_spares && hotsnap_reserve(hs, &index);
	spin_unlock(&hs->ring_lock);
	if (!room) {
		spare = hotsnap_alloc_spare(hs);
		if (!spare) {
			hotsnap_lose(hs, nr, bitmap);
			return 0;
		}
	}
	to = room ? hotsnap_page_of(hs, index) : spare->page;
	if (copy_from_user(to, (void __user *)addr, PAGE_SIZE)) {
		if (room)
			hotsnap_publish(hs, index, addr,
					KVM_HOTSNAP_ENTRY_VOID);
		else
			hotsnap_free_spare(spare);
		return -EFAULT;
	}
	if (test_and_set_bit(nr, bitmap)) {
		if (room)
			hotsnap_publish(hs, index, addr,
					KVM_HOTSNAP_ENTRY_VOID);
		else
			hotsnap_free_spare(spare);
		return 0;
	}
	if (room) {
		hotsnap_publish(hs, index, addr, KVM_HOTSNAP_ENTRY_PAGE);
	} else {
		spare->addr = addr;
		spin_lock(&hs->ring_lock);
		list_add_tail(&spare->link, &hs->spares);
		WRITE_ONCE(hs->nr_spares, hs->nr_spares + 1);
		WRITE_ONCE(hs->ring->overflow, hs->nr_spares);
		spin_unlock(&hs->ring_lock);
		wake_up_poll(&hs->wait, EPOLLIN);
	}
	spin_lock(&hs->ring_lock);
	WRITE_ONCE(hs->ring->kvm_saves, READ_ONCE(hs->ring->kvm_saves) + 1);
	spin_unlock(&hs->ring_lock);
	return 0;
}

int __kvm_hotsnap_before_write(struct kvm *kvm, unsigned long hva,
			       unsigned long len)
{
	struct kvm_hotsnap *hs = READ_ONCE(kvm->arch.hotsnap);
	unsigned long end = hva + len;
	const struct hotsnap_region *r;

	if (!hs || !READ_ONCE(hs->armed[TRAP_KVM]))
		return 0;
	hva &= PAGE_MASK;
	for (r = hotsnap_next(hs, hva);
	     r < hotsnap_end(hs) && r->start < end; r++) {
		for (hva = max(hva, r->start); hva < min(end, r->end);
		     hva += PAGE_SIZE) {
			unsigned long nr = (hva - r->start) >> PAGE_SHIFT;
			int err;

			if (test_bit(nr, r->bitmap))
				continue;
			if (WARN_ON_ONCE(current->mm != kvm->mm)) {
				hotsnap_lose(hs, nr, r->bitmap);
				continue;
			}
			err = hotsnap_save(hs, hva, nr, r->bitmap);
			if (err)
				return err;
		}
	}
	return 0;
}

void hotsnap_drain(struct kvm_hotsnap *hs)
{
	struct hotsnap_spare *spare;
	u32 index;

	for (;;) {
		spin_lock(&hs->ring_lock);
		spare = list_first_entry_or_null(&hs->spares,
						 struct hotsnap_spare, link);
		if (!spare || !hotsnap_reserve(hs, &index)) {
			spin_unlock(&hs->ring_lock);
			return;
		}
		list_del(&spare->link);
		WRITE_ONCE(hs->nr_spares, hs->nr_spares - 1);
		WRITE_ONCE(hs->ring->overflow, hs->nr_spares);
		spin_unlock(&hs->ring_lock);
		copy_page(hotsnap_page_of(hs, index), spare->page);
		hotsnap_publish(hs, index, spare->addr,
				KVM_HOTSNAP_ENTRY_PAGE);
		hotsnap_free_spare(spare);
		cond_resched();
	}
}
