/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * HotSnap: questions of the rest of KVM before it writes to guest memory or
 * lets a guest do so. Each is one load and an untaken branch in a VM that has
 * no snapshot under way.
 */
#ifndef __KVM_HOTSNAP_H
#define __KVM_HOTSNAP_H

#include <linux/kvm_host.h>
#include <uapi/linux/kvm_hotsnap.h>

#ifdef __KVM_HAVE_ARCH_HOTSNAP

int __kvm_hotsnap_before_write(struct kvm *kvm, unsigned long hva,
			       unsigned long len);
bool __kvm_hotsnap_unsaved(struct kvm *kvm, unsigned long hva,
			   unsigned long nr_pages, u32 trap);

static inline bool kvm_hotsnap_exists(struct kvm *kvm)
{
	return unlikely(READ_ONCE(kvm->arch.hotsnap));
}

/*
 * To be called before KVM writes to [hva, hva + len) on behalf of the guest.
 * Saves the pages that are not saved. May sleep. Nonzero: do not write.
 */
static inline int kvm_hotsnap_before_write(struct kvm *kvm, unsigned long hva,
					   unsigned long len)
{
	return kvm_hotsnap_exists(kvm) ?
	       __kvm_hotsnap_before_write(kvm, hva, len) : 0;
}

/*
 * Where kvm_hotsnap_before_write() cannot be called: must a write to the page
 * at @hva be left out?
 */
static inline bool kvm_hotsnap_must_not_write(struct kvm *kvm,
					      unsigned long hva)
{
	return kvm_hotsnap_exists(kvm) &&
	       __kvm_hotsnap_unsaved(kvm, hva & PAGE_MASK, 1, 1);
}

long kvm_vm_ioctl_hotsnap_create(struct kvm *kvm, void __user *argp);

#else

static inline int kvm_hotsnap_before_write(struct kvm *kvm, unsigned long hva,
					   unsigned long len)
{
	return 0;
}

static inline bool kvm_hotsnap_must_not_write(struct kvm *kvm,
					      unsigned long hva)
{
	return false;
}

#endif /* __KVM_HAVE_ARCH_HOTSNAP */

#endif /* __KVM_HOTSNAP_H */
