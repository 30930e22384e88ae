// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * HotSnap: write traps on guest memory, for live snapshots of a VM.
 *
 * User space names the memory that a snapshot saves, by its user addresses,
 * and shares with KVM one "saved" bit for each page of it. While armed, a page
 * whose bit is clear is never mapped writable into a guest (make_spte()), a
 * guest's write to it leaves to user space (kvm_hotsnap_guest_write()), and
 * KVM itself copies it to the ring before it writes to it
 * (__kvm_hotsnap_before_write()).
 *
 * Bits belong to user memory and not to memslots, since two slots may show the
 * same memory, and a slot may be deleted and made anew while armed.
 *
 * Who saves a page
 *
 *   User space and KVM may copy the same page at the same time, without a lock.
 *   Each copies first and then sets the bit with test_and_set_bit(). Who finds
 *   it clear has saved the page; the other one throws its copy away. Nobody
 *   writes to a page before its bit is set, so the winner's copy was made
 *   before the first write. A bit never goes back while armed.
 *
 * Why arming is O(1)
 *
 *   No SPTE is touched. All roots are declared invalid, as for a memslot's
 *   deletion; vCPUs begin with empty ones, and pages come back one fault at a
 *   time, read-only when not saved. What the old roots hold is freed later
 *   (KVM_HOTSNAP_REAP), outside of the pause. Until then they stay on the list
 *   of roots, where MMU notifiers see them.
 *
 * Locking and lifetime
 *
 *   kvm->arch.hotsnap changes under slots_lock. Those who look at it hold
 *   kvm->srcu for reading (everyone who uses memslots does) or a
 *   gfn_to_pfn_cache's lock. Before anything is freed, and before ARM returns,
 *   both kinds of readers are waited for (kvm_hotsnap_wait_readers()). So once
 *   ARM has returned, no write by KVM that had not seen it is under way.
 *   User space must keep its vCPUs out of KVM_RUN during ARM.
 *
 *   The ring's head and the list of what did not fit are under ring_lock. The
 *   copy itself is not: an entry is handed out first and filled afterwards.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/kvm_hotsnap.h>
#include <linux/mm.h>
#include <linux/poll.h>
#include <linux/sort.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "mmu/tdp_mmu.h"
#include "x86.h"
#include "hotsnap.h"

#define HOTSNAP_MAX_REGIONS	256
#define HOTSNAP_MAX_ENTRIES	4096

/* Which trap a question is about; TRAP_KVM is known to kvm_hotsnap.h. */
#define TRAP_GUEST	0
#define TRAP_KVM	1

struct hotsnap_region {
	unsigned long start, end;
	unsigned long *bitmap;
};

/* A page that found the ring full. */
struct hotsnap_spare {
	struct list_head link;
	unsigned long addr;
	void *page;
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

	u32 nr_entries;		/* a power of two */
	u32 nr_regions;
	struct hotsnap_region regions[];	/* by address */
};

static const struct hotsnap_region *hotsnap_find(const struct kvm_hotsnap *hs,
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
	return low < hs->nr_regions && hva >= hs->regions[low].start ?
	       &hs->regions[low] : NULL;
}

/* Is any page of the range not saved? Does not sleep. */
bool __kvm_hotsnap_unsaved(struct kvm *kvm, unsigned long hva,
			   unsigned long nr_pages, u32 trap)
{
	const struct kvm_hotsnap *hs = READ_ONCE(kvm->arch.hotsnap);
	unsigned long end = hva + nr_pages * PAGE_SIZE;

	if (!hs || !READ_ONCE(hs->armed[trap]))
		return false;
	while (hva < end) {
		const struct hotsnap_region *region = hotsnap_find(hs, hva);
		unsigned long first, last;

		if (!region) {
			hva += PAGE_SIZE;
			continue;
		}
		first = (hva - region->start) >> PAGE_SHIFT;
		last = (min(end, region->end) - region->start) >> PAGE_SHIFT;
		if (find_next_zero_bit(region->bitmap, last, first) < last)
			return true;
		hva = region->end;
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
	/* Not the vCPU's own instruction: it will come to that. */
	if (fault->prefetch)
		return RET_PF_RETRY;
	vcpu->run->exit_reason = KVM_EXIT_HOTSNAP;
	exit->gpa = gfn_to_gpa(fault->gfn);
	exit->hva = __gfn_to_hva_memslot(fault->slot, fault->gfn);
	hs->ring->exits++; /* a statistic: a lost count does no harm */
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
	/* Pairs with user space: what it took from an entry it has read. */
	u32 tail = smp_load_acquire(&hs->ring->tail);

	if (hs->head - tail >= hs->nr_entries)
		return false;
	*index = hs->head++;
	WRITE_ONCE(hotsnap_entry_of(hs, *index)->state,
		   KVM_HOTSNAP_ENTRY_EMPTY);
	smp_store_release(&hs->ring->head, hs->head);
	return true;
}

static void hotsnap_publish(struct kvm_hotsnap *hs, u32 index,
			    unsigned long addr, u32 state)
{
	struct kvm_hotsnap_entry *entry = hotsnap_entry_of(hs, index);

	entry->addr = addr;
	smp_store_release(&entry->state, state);
	wake_up_poll(&hs->wait, EPOLLIN);
}

static void hotsnap_free_spare(struct hotsnap_spare *spare)
{
	free_page((unsigned long)spare->page);
	kfree(spare);
}

static struct hotsnap_spare *hotsnap_alloc_spare(void)
{
	struct hotsnap_spare *spare = kmalloc(sizeof(*spare), GFP_NOWAIT);

	if (!spare)
		return NULL;
	spare->page = (void *)__get_free_page(GFP_NOWAIT | __GFP_NOWARN);
	if (!spare->page) {
		kfree(spare);
		return NULL;
	}
	return spare;
}

static void hotsnap_lose(struct kvm_hotsnap *hs)
{
	spin_lock(&hs->ring_lock);
	hs->ring->lost++;
	spin_unlock(&hs->ring_lock);
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
	/* Behind what waits already: the order is that of the writes. */
	room = !hs->nr_spares && hotsnap_reserve(hs, &index);
	spin_unlock(&hs->ring_lock);
	if (!room) {
		spare = hotsnap_alloc_spare();
		if (!spare) {
			/* The guest comes first. User space will give up. */
			hotsnap_lose(hs);
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
		WRITE_ONCE(hs->ring->overflow, ++hs->nr_spares);
		spin_unlock(&hs->ring_lock);
		wake_up_poll(&hs->wait, EPOLLIN);
	}
	spin_lock(&hs->ring_lock);
	hs->ring->kvm_saves++;
	spin_unlock(&hs->ring_lock);
	return 0;
}

int __kvm_hotsnap_before_write(struct kvm *kvm, unsigned long hva,
			       unsigned long len)
{
	struct kvm_hotsnap *hs = READ_ONCE(kvm->arch.hotsnap);
	unsigned long end = hva + len;
	int r;

	if (!hs || !READ_ONCE(hs->armed[TRAP_KVM]))
		return 0;
	for (hva &= PAGE_MASK; hva < end; hva += PAGE_SIZE) {
		const struct hotsnap_region *region = hotsnap_find(hs, hva);
		unsigned long nr;

		if (!region)
			continue;
		nr = (hva - region->start) >> PAGE_SHIFT;
		if (test_bit(nr, region->bitmap))
			continue;
		if (WARN_ON_ONCE(current->mm != kvm->mm)) {
			hotsnap_lose(hs);
			continue;
		}
		r = hotsnap_save(hs, hva, nr, region->bitmap);
		if (r)
			return r;
	}
	return 0;
}

/* What user space asks for. */

static void hotsnap_wait_readers(struct kvm *kvm)
{
	struct gfn_to_pfn_cache *gpc;

	synchronize_srcu_expedited(&kvm->srcu);
	spin_lock(&kvm->gpc_lock);
	list_for_each_entry(gpc, &kvm->gpc_list, list) {
		write_lock_irq(&gpc->lock);
		write_unlock_irq(&gpc->lock);
	}
	spin_unlock(&kvm->gpc_lock);
}

/*
 * VMX keeps pages of a nested guest's control structures mapped for the CPU to
 * write to; those writes cannot be trapped.
 */
static bool hotsnap_nested_vmx(struct kvm *kvm)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;

	if (!boot_cpu_has(X86_FEATURE_VMX))
		return false;
	kvm_for_each_vcpu(i, vcpu, kvm) {
		if (is_guest_mode(vcpu))
			return true;
	}
	return false;
}

static long hotsnap_arm(struct kvm_hotsnap *hs, void __user *argp)
{
	struct kvm *kvm = hs->kvm;
	struct kvm_hotsnap_arm arm;

	if (copy_from_user(&arm, argp, sizeof(arm)))
		return -EFAULT;
	if (arm.reserved || arm.flags & ~(KVM_HOTSNAP_ARM_NO_GUEST_TRAP |
					  KVM_HOTSNAP_ARM_NO_KVM_TRAP))
		return -EINVAL;

	mutex_lock(&kvm->slots_lock);
	if (hs->armed[TRAP_GUEST] || hs->armed[TRAP_KVM] ||
	    hotsnap_nested_vmx(kvm)) {
		mutex_unlock(&kvm->slots_lock);
		return -EBUSY;
	}
	WRITE_ONCE(hs->armed[TRAP_GUEST],
		   !(arm.flags & KVM_HOTSNAP_ARM_NO_GUEST_TRAP));
	WRITE_ONCE(hs->armed[TRAP_KVM],
		   !(arm.flags & KVM_HOTSNAP_ARM_NO_KVM_TRAP));
	kvm_mmu_drop_roots(kvm);
	hotsnap_wait_readers(kvm);
	mutex_unlock(&kvm->slots_lock);
	return 0;
}

static void hotsnap_reap(struct kvm *kvm)
{
	mutex_lock(&kvm->slots_lock);
	if (tdp_mmu_enabled)
		kvm_tdp_mmu_zap_invalidated_roots(kvm);
	mutex_unlock(&kvm->slots_lock);
}

/* Guests get their huge mappings back: small ones are dropped. */
static void hotsnap_recover_huge_pages(struct kvm *kvm)
{
	struct kvm_memory_slot *slot;
	int i, bkt;

	for (i = 0; i < kvm_arch_nr_memslot_as_ids(kvm); i++)
		kvm_for_each_memslot(slot, bkt, __kvm_memslots(kvm, i))
			kvm_mmu_zap_collapsible_sptes(kvm, slot);
}

static void hotsnap_disarm(struct kvm_hotsnap *hs)
{
	struct kvm *kvm = hs->kvm;
	bool was_armed;

	mutex_lock(&kvm->slots_lock);
	was_armed = hs->armed[TRAP_GUEST] || hs->armed[TRAP_KVM];
	WRITE_ONCE(hs->armed[TRAP_GUEST], false);
	WRITE_ONCE(hs->armed[TRAP_KVM], false);
	if (was_armed) {
		hotsnap_wait_readers(kvm);
		hotsnap_recover_huge_pages(kvm);
	}
	mutex_unlock(&kvm->slots_lock);
	if (was_armed)
		hotsnap_reap(kvm);
}

static long hotsnap_release_range(struct kvm_hotsnap *hs, void __user *argp)
{
	struct kvm_hotsnap_range range;
	unsigned long hva, end;

	if (copy_from_user(&range, argp, sizeof(range)))
		return -EFAULT;
	if (!PAGE_ALIGNED(range.userspace_addr) || !PAGE_ALIGNED(range.bytes) ||
	    range.userspace_addr + range.bytes < range.userspace_addr)
		return -EINVAL;
	end = range.userspace_addr + range.bytes;
	for (hva = range.userspace_addr; hva < end;) {
		const struct hotsnap_region *region = hotsnap_find(hs, hva);

		if (!region)
			return -EINVAL;
		for (; hva < min(end, region->end); hva += PAGE_SIZE)
			set_bit((hva - region->start) >> PAGE_SHIFT,
				region->bitmap);
		cond_resched();
	}
	return 0;
}

/* Moves what did not fit to the ring, as far as it fits now. */
static long hotsnap_drain(struct kvm_hotsnap *hs)
{
	struct hotsnap_spare *spare;
	u32 index;

	for (;;) {
		spin_lock(&hs->ring_lock);
		spare = list_first_entry_or_null(&hs->spares,
						 struct hotsnap_spare, link);
		if (!spare || !hotsnap_reserve(hs, &index)) {
			spin_unlock(&hs->ring_lock);
			return 0;
		}
		list_del(&spare->link);
		WRITE_ONCE(hs->ring->overflow, --hs->nr_spares);
		spin_unlock(&hs->ring_lock);
		copy_page(hotsnap_page_of(hs, index), spare->page);
		hotsnap_publish(hs, index, spare->addr,
				KVM_HOTSNAP_ENTRY_PAGE);
		hotsnap_free_spare(spare);
	}
}

static long hotsnap_ioctl(struct file *file, unsigned int ioctl,
			  unsigned long arg)
{
	struct kvm_hotsnap *hs = file->private_data;
	void __user *argp = (void __user *)arg;

	if (hs->kvm->mm != current->mm)
		return -EIO;
	switch (ioctl) {
	case KVM_HOTSNAP_ARM:
		return hotsnap_arm(hs, argp);
	case KVM_HOTSNAP_RELEASE:
		return hotsnap_release_range(hs, argp);
	case KVM_HOTSNAP_DRAIN:
		return hotsnap_drain(hs);
	case KVM_HOTSNAP_REAP:
		hotsnap_reap(hs->kvm);
		return 0;
	case KVM_HOTSNAP_DISARM:
		hotsnap_disarm(hs);
		return 0;
	default:
		return -ENOTTY;
	}
}

static __poll_t hotsnap_poll(struct file *file, poll_table *table)
{
	struct kvm_hotsnap *hs = file->private_data;
	struct kvm_hotsnap_ring *ring = hs->ring;

	poll_wait(file, &hs->wait, table);
	return READ_ONCE(hs->head) != READ_ONCE(ring->tail) ||
	       READ_ONCE(hs->nr_spares) || READ_ONCE(ring->lost) ?
	       EPOLLIN | EPOLLRDNORM : 0;
}

static int hotsnap_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct kvm_hotsnap *hs = file->private_data;

	return remap_vmalloc_range(vma, hs->area, vma->vm_pgoff);
}

static void hotsnap_free(struct kvm_hotsnap *hs)
{
	struct hotsnap_spare *spare, *next;

	list_for_each_entry_safe(spare, next, &hs->spares, link)
		hotsnap_free_spare(spare);
	vfree(hs->area);
	kvfree(hs);
}

/* Also when the process dies while armed: nothing stays behind. */
static int hotsnap_release(struct inode *inode, struct file *file)
{
	struct kvm_hotsnap *hs = file->private_data;
	struct kvm *kvm = hs->kvm;

	hotsnap_disarm(hs);
	mutex_lock(&kvm->slots_lock);
	WRITE_ONCE(kvm->arch.hotsnap, NULL);
	hotsnap_wait_readers(kvm);
	mutex_unlock(&kvm->slots_lock);
	hotsnap_free(hs);
	kvm_put_kvm(kvm);
	return 0;
}

static const struct file_operations hotsnap_fops = {
	.owner = THIS_MODULE,
	.release = hotsnap_release,
	.unlocked_ioctl = hotsnap_ioctl,
	.poll = hotsnap_poll,
	.mmap = hotsnap_mmap,
	.llseek = noop_llseek,
};

static int hotsnap_by_address(const void *a, const void *b)
{
	const struct hotsnap_region *left = a, *right = b;

	return left->start < right->start ? -1 : left->start > right->start;
}

/* No more bits than a VM of this size needs. */
static u64 hotsnap_most_pages(struct kvm *kvm)
{
	struct kvm_memory_slot *slot;
	u64 pages = 0;
	int i, bkt;

	for (i = 0; i < kvm_arch_nr_memslot_as_ids(kvm); i++)
		kvm_for_each_memslot(slot, bkt, __kvm_memslots(kvm, i))
			pages += slot->npages;
	return 4 * pages + SZ_1G / PAGE_SIZE;
}

/*
 * Lays out the area: ring, entries, pages, bitmaps; each begins on a page.
 * Fills in what user space is told.
 */
static int hotsnap_lay_out(struct kvm_hotsnap *hs,
			   struct kvm_hotsnap_create *create,
			   struct kvm_hotsnap_region *regions, u64 most_pages)
{
	size_t at = PAGE_SIZE;
	u64 pages = 0;
	u32 i;

	create->entries_offset = at;
	at += PAGE_ALIGN(hs->nr_entries * sizeof(struct kvm_hotsnap_entry));
	create->pages_offset = at;
	at += (size_t)hs->nr_entries * PAGE_SIZE;
	for (i = 0; i < hs->nr_regions; i++) {
		struct kvm_hotsnap_region *r = &regions[i];

		if (r->reserved || !r->bytes ||
		    !PAGE_ALIGNED(r->userspace_addr) ||
		    !PAGE_ALIGNED(r->bytes) ||
		    !access_ok((void __user *)r->userspace_addr, r->bytes))
			return -EINVAL;
		pages += r->bytes >> PAGE_SHIFT;
		if (pages > most_pages)
			return -EINVAL;
		r->bitmap_offset = at;
		at += PAGE_ALIGN(BITS_TO_LONGS(r->bytes >> PAGE_SHIFT) *
				 sizeof(long));
	}
	create->mmap_bytes = at;

	hs->area_bytes = at;
	hs->area = vmalloc_user(at);
	if (!hs->area)
		return -ENOMEM;
	hs->ring = hs->area;
	hs->entries = hs->area + create->entries_offset;
	hs->pages = hs->area + create->pages_offset;
	for (i = 0; i < hs->nr_regions; i++) {
		hs->regions[i].start = regions[i].userspace_addr;
		hs->regions[i].end = hs->regions[i].start + regions[i].bytes;
		hs->regions[i].bitmap = hs->area + regions[i].bitmap_offset;
	}
	sort(hs->regions, hs->nr_regions, sizeof(hs->regions[0]),
	     hotsnap_by_address, NULL);
	for (i = 1; i < hs->nr_regions; i++) {
		if (hs->regions[i].start < hs->regions[i - 1].end)
			return -EINVAL;
	}
	return 0;
}

static int hotsnap_publish_object(struct kvm *kvm, struct kvm_hotsnap *hs)
{
	int r = -EBUSY;

	mutex_lock(&kvm->slots_lock);
	if (!kvm->arch.hotsnap) {
		smp_store_release(&kvm->arch.hotsnap, hs);
		r = 0;
	}
	mutex_unlock(&kvm->slots_lock);
	return r;
}

long kvm_vm_ioctl_hotsnap_create(struct kvm *kvm, void __user *argp)
{
	struct kvm_hotsnap_region *regions;
	struct kvm_hotsnap_create create;
	struct kvm_hotsnap *hs;
	u64 most_pages;
	int fd, r;

	if (copy_from_user(&create, argp, sizeof(create)))
		return -EFAULT;
	if (create.flags || create.reserved || !create.nr_regions ||
	    create.nr_regions > HOTSNAP_MAX_REGIONS ||
	    create.ring_entries > HOTSNAP_MAX_ENTRIES ||
	    !is_power_of_2(create.ring_entries))
		return -EINVAL;
	/* Memory that the host cannot read cannot be saved. */
	if (kvm->arch.vm_type != KVM_X86_DEFAULT_VM ||
	    kvm->arch.has_protected_state)
		return -EOPNOTSUPP;
	regions = vmemdup_array_user(u64_to_user_ptr(create.regions),
				     create.nr_regions, sizeof(*regions));
	if (IS_ERR(regions))
		return PTR_ERR(regions);

	r = -ENOMEM;
	hs = kvzalloc(struct_size(hs, regions, create.nr_regions),
		      GFP_KERNEL_ACCOUNT);
	if (!hs)
		goto out_regions;
	hs->kvm = kvm;
	hs->nr_entries = create.ring_entries;
	hs->nr_regions = create.nr_regions;
	spin_lock_init(&hs->ring_lock);
	INIT_LIST_HEAD(&hs->spares);
	init_waitqueue_head(&hs->wait);

	mutex_lock(&kvm->slots_lock);
	most_pages = hotsnap_most_pages(kvm);
	mutex_unlock(&kvm->slots_lock);
	r = hotsnap_lay_out(hs, &create, regions, most_pages);
	if (r)
		goto out_free;
	r = -EFAULT;
	if (copy_to_user(argp, &create, sizeof(create)) ||
	    copy_to_user(u64_to_user_ptr(create.regions), regions,
			 create.nr_regions * sizeof(*regions)))
		goto out_free;
	r = hotsnap_publish_object(kvm, hs);
	if (r)
		goto out_free;

	kvm_get_kvm(kvm);
	fd = anon_inode_getfd("kvm-hotsnap", &hotsnap_fops, hs,
			      O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		mutex_lock(&kvm->slots_lock);
		WRITE_ONCE(kvm->arch.hotsnap, NULL);
		hotsnap_wait_readers(kvm);
		mutex_unlock(&kvm->slots_lock);
		kvm_put_kvm_no_destroy(kvm);
		r = fd;
		goto out_free;
	}
	kvfree(regions);
	return fd;

out_free:
	hotsnap_free(hs);
out_regions:
	kvfree(regions);
	return r;
}
