// SPDX-License-Identifier: GPL-2.0-or-later
//
// The ring through which KVM hands over pages that it saved itself (kvm_hotsnap.h), as its one
// reader sees it. The memory is shared with the kernel, which alone writes head and entries.
#ifndef HOTSNAP_TRAP_KVM_RING_H
#define HOTSNAP_TRAP_KVM_RING_H

#include <cstddef>
#include <cstdint>
#include <linux/kvm_hotsnap.h>
#include <optional>

namespace hotsnap::memory {

class CopyRing {
  public:
    struct Copy {
        uint64_t address = 0;            // of the page, in this process
        const std::byte *page = nullptr; // its content at the cut; until pop()
    };

    CopyRing(std::byte *area, const kvm_hotsnap_create &layout);

    // The oldest copy that was not popped. Nothing when there is none, or when it is not filled
    // yet: an entry is handed out first and filled afterwards, and the entries behind it wait.
    std::optional<Copy> front();

    // Gives the entry of front() back to KVM.
    void pop();

    // Pages wait in the kernel for room in the ring: ask for KVM_HOTSNAP_DRAIN.
    bool overflow() const;

    // KVM could not save a page for want of memory, and has let it be written.
    bool lost() const;

  private:
    kvm_hotsnap_ring &ring_;
    kvm_hotsnap_entry *entries_;
    const std::byte *pages_;
    uint32_t mask_;
    uint32_t tail_ = 0;
};

} // namespace hotsnap::memory
#endif
