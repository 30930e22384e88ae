// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * HotSnap: write traps on guest memory, for live snapshots of a VM. This file
 * has the calls of user space; the traps are in hotsnap_trap.c.
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
 * Which copy counts
 *
 *   User space and KVM may copy the same page at the same time, without a lock.
 *   Each copies first and then sets the bit with test_and_set_bit(). The side
 *   that finds it clear has saved the page; the other side throws its copy
 *   away. Nobody writes to a page before its bit is set, so the winner's copy
 *   was made before the first write. A bit never goes back while armed.
 *
 * Why arming is O(1)
 *
 *   No SPTE is touched. All roots are declared invalid, as for a memslot's
 *   deletion; vCPUs begin with empty ones, and pages come back one fault at a
 *   time, read-only when not saved. The old roots' page tables are freed later
 *   (KVM_HOTSNAP_REAP), outside of the pause. Until then the old roots stay on
 *   the list of roots, where MMU notifiers see them.
 *
 * Locking and lifetime
 *
 *   kvm->arch.hotsnap changes under slots_lock. Its readers hold kvm->srcu for
 *   reading (as all users of memslots do) or a gfn_to_pfn_cache's lock. Before
 *   anything is freed, and before ARM returns, both kinds of readers are waited
 *   for (hotsnap_wait_readers()). So once ARM has returned, no write by KVM
 *   that had not seen it is under way.
 *   User space must keep its vCPUs out of KVM_RUN during ARM.
 *
 *   The ring's head and the list of pages that did not fit are under ring_lock.
 *   Copying is not: an entry is handed out first and filled afterwards.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/anon_inodes.h>
#include <linux/file.h>
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
#include "hotsnap_object.h"

#define HOTSNAP_MAX_REGIONS	256
#define HOTSNAP_MAX_ENTRIES	4096

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
 * write to; those writes cannot be trapped. Under Hyper-V's enlightenments a
 * guest's VMCS stays mapped also while its nested guest does not run, as long
 * as the guest uses VMX at all.
 */
static bool hotsnap_nested_vmx(struct kvm *kvm)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;

	if (!boot_cpu_has(X86_FEATURE_VMX))
		return false;
	kvm_for_each_vcpu(i, vcpu, kvm) {
		/* VMXE is never the guest's own: KVM's value is current. */
		if (is_guest_mode(vcpu) || (vcpu->arch.hyperv_enabled &&
					    vcpu->arch.cr4 & X86_CR4_VMXE))
			return true;
	}
	return false;
}

/* Memory that the host cannot read cannot be saved. */
static bool hotsnap_unreadable(struct kvm *kvm)
{
	return kvm->arch.vm_type != KVM_X86_DEFAULT_VM ||
	       kvm->arch.has_protected_state ||
	       READ_ONCE(kvm->arch.hotsnap_unreadable);
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

	if (hotsnap_unreadable(kvm))
		return -EOPNOTSUPP;
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
	const struct hotsnap_region *r;
	struct kvm_hotsnap_range range;
	unsigned long hva, end;

	if (copy_from_user(&range, argp, sizeof(range)))
		return -EFAULT;
	if (!PAGE_ALIGNED(range.userspace_addr) || !PAGE_ALIGNED(range.bytes) ||
	    range.userspace_addr + range.bytes < range.userspace_addr)
		return -EINVAL;
	end = range.userspace_addr + range.bytes;
	/* All of it or nothing. */
	hva = range.userspace_addr;
	for (r = hotsnap_next(hs, hva); hva < end; hva = r->end, r++) {
		if (r == hotsnap_end(hs) || r->start > hva)
			return -EINVAL;
	}
	r = hotsnap_next(hs, range.userspace_addr);
	for (hva = range.userspace_addr; hva < end; hva += PAGE_SIZE) {
		if (hva >= r->end)
			r++;
		set_bit((hva - r->start) >> PAGE_SHIFT, r->bitmap);
		if (!(hva & (SZ_16M - 1)))
			cond_resched();
	}
	return 0;
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
		hotsnap_drain(hs);
		return 0;
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

static vm_fault_t hotsnap_fault(struct vm_fault *vmf)
{
	struct kvm_hotsnap *hs = vmf->vma->vm_file->private_data;

	if (vmf->pgoff >= hs->area_bytes >> PAGE_SHIFT)
		return VM_FAULT_SIGBUS;
	vmf->page = vmalloc_to_page(hs->area + (vmf->pgoff << PAGE_SHIFT));
	get_page(vmf->page);
	return 0;
}

static const struct vm_operations_struct hotsnap_vm_ops = {
	.fault = hotsnap_fault,
};

static int hotsnap_mmap(struct file *file, struct vm_area_struct *vma)
{
	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	/* A child's mapping would keep the VM alive, and armed. */
	vm_flags_set(vma, VM_DONTEXPAND | VM_DONTDUMP | VM_DONTCOPY);
	vma->vm_ops = &hotsnap_vm_ops;
	return 0;
}

static void hotsnap_free(struct kvm_hotsnap *hs)
{
	hotsnap_free_spares(hs);
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
	.compat_ioctl = compat_ptr_ioctl,
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

/* Takes over the regions of memory that user space named. */
static int hotsnap_take_regions(struct kvm_hotsnap *hs,
				const struct kvm_hotsnap_region *regions,
				u64 most_pages)
{
	u32 i;

	for (i = 0; i < hs->nr_regions; i++) {
		const struct kvm_hotsnap_region *r = &regions[i];

		if (r->reserved || !r->bytes ||
		    !PAGE_ALIGNED(r->userspace_addr) ||
		    !PAGE_ALIGNED(r->bytes) ||
		    !access_ok((void __user *)r->userspace_addr, r->bytes))
			return -EINVAL;
		hs->nr_pages += r->bytes >> PAGE_SHIFT;
		if (hs->nr_pages > most_pages)
			return -EINVAL;
		hs->regions[i].start = r->userspace_addr;
		hs->regions[i].end = r->userspace_addr + r->bytes;
	}
	sort(hs->regions, hs->nr_regions, sizeof(hs->regions[0]),
	     hotsnap_by_address, NULL);
	for (i = 1; i < hs->nr_regions; i++) {
		if (hs->regions[i].start < hs->regions[i - 1].end)
			return -EINVAL;
	}
	return 0;
}

/*
 * Lays out the area: ring, entries, pages, bitmaps; each begins on a page.
 * Fills in the offsets for user space. The memory is charged to the caller.
 */
static int hotsnap_lay_out(struct kvm_hotsnap *hs,
			   struct kvm_hotsnap_create *create,
			   struct kvm_hotsnap_region *regions)
{
	size_t at = PAGE_SIZE;
	u32 i;

	create->entries_offset = at;
	at += PAGE_ALIGN(hs->nr_entries * sizeof(struct kvm_hotsnap_entry));
	create->pages_offset = at;
	at += (size_t)hs->nr_entries * PAGE_SIZE;
	for (i = 0; i < hs->nr_regions; i++) {
		regions[i].bitmap_offset = at;
		at += PAGE_ALIGN(BITS_TO_LONGS(regions[i].bytes >> PAGE_SHIFT) *
				 sizeof(long));
	}
	create->mmap_bytes = at;

	hs->area_bytes = at;
	hs->area = __vmalloc(at, GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	if (!hs->area)
		return -ENOMEM;
	hs->ring = hs->area;
	hs->entries = hs->area + create->entries_offset;
	hs->pages = hs->area + create->pages_offset;
	for (i = 0; i < hs->nr_regions; i++) {
		const struct hotsnap_region *r =
			hotsnap_next(hs, regions[i].userspace_addr);

		hs->regions[r - hs->regions].bitmap =
			hs->area + regions[i].bitmap_offset;
	}
	return 0;
}

static int hotsnap_publish_object(struct kvm *kvm, struct kvm_hotsnap *hs)
{
	int r = -EBUSY;

	mutex_lock(&kvm->slots_lock);
	if (!kvm->arch.hotsnap) {
		/* A reader that finds it without a lock sees all of it. */
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
	if (hotsnap_unreadable(kvm))
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
	r = hotsnap_take_regions(hs, regions, most_pages);
	if (!r)
		r = hotsnap_lay_out(hs, &create, regions);
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
