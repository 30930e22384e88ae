/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef HOTSNAP_LAZY_HALT_H
#define HOTSNAP_LAZY_HALT_H

/*
 * Main loop: stops the VM with run state io-error, if it runs, and does not
 * wait for a vCPU that waits for memory.
 */
void hotsnap_lazy_halt(void);

#endif
