/* SPDX-License-Identifier: GPL-2.0-or-later */
/* HotSnap: calls from and to KVM's MMU for x86; see hotsnap.c. */
#ifndef __KVM_X86_HOTSNAP_H
#define __KVM_X86_HOTSNAP_H

#include <linux/kvm_hotsnap.h>

struct kvm_page_fault;

/*
 * Is any page of the mapping of @level around @gfn not saved? Then the mapping
 * must not be writable. Does not sleep.
 */
bool kvm_hotsnap_range_unsaved(struct kvm *kvm,
			       const struct kvm_memory_slot *slot, gfn_t gfn,
			       int level);

u8 kvm_hotsnap_max_level(struct kvm *kvm, const struct kvm_page_fault *fault);

int kvm_hotsnap_guest_write(struct kvm_vcpu *vcpu,
			    struct kvm_page_fault *fault);

/*
 * mmu.c: makes all vCPUs begin with empty page tables; does not wait until the
 * old ones are freed. Under slots_lock, with no vCPU in KVM_RUN.
 */
void kvm_mmu_drop_roots(struct kvm *kvm);

#endif /* __KVM_X86_HOTSNAP_H */
