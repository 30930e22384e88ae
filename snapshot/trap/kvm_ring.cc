// SPDX-License-Identifier: GPL-2.0-or-later
#include "trap/kvm_ring.h"

#include "guest/guest_memory.h"
#include "os/thread.h"

#include <atomic>

namespace hotsnap::memory {

namespace {

// KVM fills an entry in about a microsecond, unless the page has to come from swap first.
constexpr int most_spins = 2000;

uint32_t load(uint32_t &shared, std::memory_order order) {
    return std::atomic_ref<uint32_t>(shared).load(order);
}

} // namespace

CopyRing::CopyRing(std::byte *area, const kvm_hotsnap_create &layout)
    : ring_(*reinterpret_cast<kvm_hotsnap_ring *>(area)),
      entries_(reinterpret_cast<kvm_hotsnap_entry *>(area + layout.entries_offset)),
      pages_(area + layout.pages_offset), mask_(layout.ring_entries - 1) {}

std::optional<CopyRing::Copy> CopyRing::front() {
    while (load(ring_.head, std::memory_order_acquire) != tail_) {
        kvm_hotsnap_entry &entry = entries_[tail_ & mask_];
        uint32_t state = KVM_HOTSNAP_ENTRY_EMPTY;
        for (int spins = 0; spins < most_spins && state == KVM_HOTSNAP_ENTRY_EMPTY; spins++) {
            state = load(entry.state, std::memory_order_acquire);
            relax_cpu();
        }
        if (state == KVM_HOTSNAP_ENTRY_EMPTY) {
            return std::nullopt;
        }
        if (state == KVM_HOTSNAP_ENTRY_PAGE) {
            return Copy{entry.addr, pages_ + (tail_ & mask_) * page_bytes};
        }
        pop(); // void: another saver was faster
    }
    return std::nullopt;
}

void CopyRing::pop() {
    // Release: KVM fills the entry anew only when it has been read.
    std::atomic_ref<uint32_t>(ring_.tail).store(++tail_, std::memory_order_release);
}

bool CopyRing::overflow() const {
    return load(ring_.overflow, std::memory_order_relaxed) != 0;
}

bool CopyRing::lost() const {
    return load(ring_.lost, std::memory_order_relaxed) != 0;
}

} // namespace hotsnap::memory
