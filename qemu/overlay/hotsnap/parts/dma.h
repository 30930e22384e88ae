/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Engine "kvm": writes that QEMU itself is about to do.
 */
#ifndef HOTSNAP_PARTS_DMA_H
#define HOTSNAP_PARTS_DMA_H

#include <hotsnap/snapshot.h>

int hotsnap_kvm_vm_fd(void); /* -1: not under KVM */

/* In the pause, after the cut, under the BQL. */
void hotsnap_dma_arm(hs_snapshot *s);

/* Any thread, any time, again; before hs_snapshot_free(). */
void hotsnap_dma_disarm(void);

#endif
