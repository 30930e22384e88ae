// SPDX-License-Identifier: GPL-2.0-or-later
//
// Makes a write trap by its name, and tries it.
#ifndef HOTSNAP_TRAP_ENGINE_H
#define HOTSNAP_TRAP_ENGINE_H

#include "trap/write_trap.h"

#include <memory>
#include <string_view>

namespace hotsnap::memory {

// "auto" is the best engine there is: kvm where the VM's KVM offers it, else uffd. `kvm_vm_fd` is
// the VM's, or -1; `open_traps`, for tests: HS_OPEN_TRAP_... (snapshot.h). Throws Error for an
// unknown name, and for kvm where KVM does not offer it.
std::unique_ptr<WriteTrap> make_trap(std::string_view engine, int kvm_vm_fd = -1,
                                     uint32_t open_traps = 0);

// Tries an engine on a few pages: protects, writes, sees the fault, releases. `shared` and `huge`
// say of what kind the pages are. Throws Error when the engine does not work.
void probe_engine(std::string_view engine, bool shared, bool huge);

} // namespace hotsnap::memory
#endif
