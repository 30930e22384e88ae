// SPDX-License-Identifier: GPL-2.0-or-later
//
// The write traps of the patched KVM on a machine's memory.
#pragma once

#include "machine.h"

#include <linux/kvm_hotsnap.h>

namespace hotsnap::kvmtest {

// The traps. Regions are given as offsets into the memory.
class Trap {
  public:
    struct Region {
        size_t offset, bytes;
    };
    // Throws std::system_error with KVM's refusal.
    Trap(const Machine &machine, std::vector<Region> regions, uint32_t ring_entries = 64);
    explicit Trap(const Machine &machine);
    ~Trap();

    void arm(uint32_t flags = 0) const;
    void disarm() const;
    void reap() const;
    void release(size_t offset, size_t bytes) const;
    void close();

    // By number of the page in the memory; the page must be in a region.
    bool saved(size_t number) const;
    // Sets the bit; false when it was set already.
    bool claim(size_t number) const;

    // Hands over the pages in the ring, and drains those that did not fit. `data` is 4 KiB.
    using OnPage = std::function<void(size_t number, const std::byte *data)>;
    size_t take(const OnPage &on_page) const;

    const kvm_hotsnap_ring &ring() const { return *ring_; }

  private:
    uint64_t *word(size_t number, uint64_t *mask) const;

    const Machine &machine_;
    std::vector<kvm_hotsnap_region> regions_;
    kvm_hotsnap_create create_{};
    Fd fd_;
    std::byte *area_ = nullptr;
    kvm_hotsnap_ring *ring_ = nullptr;
};

} // namespace hotsnap::kvmtest
