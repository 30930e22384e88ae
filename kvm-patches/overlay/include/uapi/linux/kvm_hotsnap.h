/* SPDX-License-Identifier: GPL-2.0-or-later WITH Linux-syscall-note */
/*
 * HotSnap: write traps on guest memory, for live snapshots of a VM.
 * See Documentation/virt/kvm/hotsnap.rst.
 */
#ifndef _UAPI_LINUX_KVM_HOTSNAP_H
#define _UAPI_LINUX_KVM_HOTSNAP_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* KVM_CHECK_EXTENSION: 0, or the version of this interface. */
#define KVM_CAP_HOTSNAP			0x4853
#define KVM_HOTSNAP_VERSION		1

/* kvm_run.exit_reason: a vCPU is about to write to a page that is not saved. */
#define KVM_EXIT_HOTSNAP		0x4853

/* At kvm_run.hw, where the members of the union begin. */
struct kvm_hotsnap_exit {
	__u64 gpa;		/* of the page */
	__u64 hva;		/* its user address */
};

/* User memory that a snapshot saves; its bitmap has one bit a page of 4 KiB. */
struct kvm_hotsnap_region {
	__u64 userspace_addr;	/* in: page aligned */
	__u64 bytes;		/* in: page aligned */
	__u64 bitmap_offset;	/* out: of its bitmap, in the mapping of the fd */
	__u64 reserved;		/* must be 0 */
};

struct kvm_hotsnap_create {
	__u32 flags;		/* must be 0 */
	__u32 ring_entries;	/* pages the ring holds: a power of two, 1 to 4096 */
	__u32 nr_regions;	/* at most 256, in any order, not overlapping */
	__u32 reserved;		/* must be 0 */
	__u64 regions;		/* address of the array, in and out */
	__u64 mmap_bytes;	/* out: length of the fd's mapping */
	__u64 entries_offset;	/* out: struct kvm_hotsnap_entry[ring_entries] */
	__u64 pages_offset;	/* out: 4 KiB for each entry */
};

/* At offset 0 of the mapping. */
struct kvm_hotsnap_ring {
	__u32 head;		/* written by KVM: entries handed out so far */
	__u32 tail;		/* written by user space: entries taken so far */
	__u32 overflow;		/* pages that wait in the kernel: KVM_HOTSNAP_DRAIN */
	__u32 lost;		/* writes without a copy, for want of memory: abort */
	__u64 exits;		/* statistics: KVM_EXIT_HOTSNAP */
	__u64 kvm_saves;	/* statistics: pages that KVM saved */
};

#define KVM_HOTSNAP_ENTRY_EMPTY		0	/* not filled yet */
#define KVM_HOTSNAP_ENTRY_PAGE		1	/* the page at @addr, as at the cut */
#define KVM_HOTSNAP_ENTRY_VOID		2	/* no page: others were first */

struct kvm_hotsnap_entry {
	__u64 addr;		/* user address of the page */
	__u32 state;
	__u32 reserved;
};

/* For tests: leaves a trap open. */
#define KVM_HOTSNAP_ARM_NO_GUEST_TRAP	(1 << 0)
#define KVM_HOTSNAP_ARM_NO_KVM_TRAP	(1 << 1)

struct kvm_hotsnap_arm {
	__u32 flags;
	__u32 reserved;		/* must be 0 */
};

struct kvm_hotsnap_range {
	__u64 userspace_addr;
	__u64 bytes;
};

#define KVM_HOTSNAP_IOC			0xAE

/* A call to the VM; returns a file descriptor. */
#define KVM_HOTSNAP_CREATE  _IOWR(KVM_HOTSNAP_IOC, 0xf0, struct kvm_hotsnap_create)
/* Calls to that descriptor. */
#define KVM_HOTSNAP_ARM     _IOW(KVM_HOTSNAP_IOC, 0xf1, struct kvm_hotsnap_arm)
#define KVM_HOTSNAP_RELEASE _IOW(KVM_HOTSNAP_IOC, 0xf2, struct kvm_hotsnap_range)
#define KVM_HOTSNAP_DRAIN   _IO(KVM_HOTSNAP_IOC, 0xf3)
#define KVM_HOTSNAP_REAP    _IO(KVM_HOTSNAP_IOC, 0xf4)
#define KVM_HOTSNAP_DISARM  _IO(KVM_HOTSNAP_IOC, 0xf5)

#endif /* _UAPI_LINUX_KVM_HOTSNAP_H */
