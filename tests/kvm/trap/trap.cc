// SPDX-License-Identifier: GPL-2.0-or-later
#include "trap.h"

#include <sys/ioctl.h>
#include <sys/mman.h>

namespace hotsnap::kvmtest {

Trap::Trap(const Machine &machine) : Trap(machine, {{0, machine.memory().bytes()}}) {}

Trap::Trap(const Machine &machine, std::vector<Region> regions, uint32_t ring_entries)
    : machine_(machine) {
    for (const Region &region : regions) {
        regions_.push_back({machine.memory().address(region.offset), region.bytes, 0, 0});
    }
    create_.ring_entries = ring_entries;
    create_.nr_regions = static_cast<uint32_t>(regions_.size());
    create_.regions = reinterpret_cast<uint64_t>(regions_.data());
    fd_ = Fd(must(ioctl(machine.vm(), KVM_HOTSNAP_CREATE, &create_), "KVM_HOTSNAP_CREATE"));
    void *area =
        mmap(nullptr, create_.mmap_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    must(area == MAP_FAILED ? -1 : 0, "mmap of the traps");
    area_ = static_cast<std::byte *>(area);
    ring_ = reinterpret_cast<kvm_hotsnap_ring *>(area_);
}

Trap::~Trap() {
    close();
}

void Trap::close() {
    if (area_ != nullptr) {
        munmap(area_, create_.mmap_bytes);
        area_ = nullptr;
        fd_ = Fd();
    }
}

void Trap::arm(uint32_t flags) const {
    const kvm_hotsnap_arm arm{flags, 0};
    must(ioctl(fd_.get(), KVM_HOTSNAP_ARM, &arm), "KVM_HOTSNAP_ARM");
}

void Trap::disarm() const {
    must(ioctl(fd_.get(), KVM_HOTSNAP_DISARM), "KVM_HOTSNAP_DISARM");
}

void Trap::reap() const {
    must(ioctl(fd_.get(), KVM_HOTSNAP_REAP), "KVM_HOTSNAP_REAP");
}

void Trap::release(size_t offset, size_t bytes) const {
    const kvm_hotsnap_range range{machine_.memory().address(offset), bytes};
    must(ioctl(fd_.get(), KVM_HOTSNAP_RELEASE, &range), "KVM_HOTSNAP_RELEASE");
}

uint64_t *Trap::word(size_t number, uint64_t *mask) const {
    const uint64_t address = machine_.memory().address(number * page);
    for (const kvm_hotsnap_region &region : regions_) {
        if (address >= region.userspace_addr && address < region.userspace_addr + region.bytes) {
            const uint64_t bit = (address - region.userspace_addr) / page;
            *mask = uint64_t{1} << bit % 64;
            return reinterpret_cast<uint64_t *>(area_ + region.bitmap_offset) + bit / 64;
        }
    }
    throw Failed("page " + std::to_string(number) + " is in no region");
}

bool Trap::saved(size_t number) const {
    uint64_t mask;
    const uint64_t *bits = word(number, &mask);
    return (__atomic_load_n(bits, __ATOMIC_ACQUIRE) & mask) != 0;
}

bool Trap::claim(size_t number) const {
    uint64_t mask;
    uint64_t *bits = word(number, &mask);
    return (__atomic_fetch_or(bits, mask, __ATOMIC_ACQ_REL) & mask) == 0;
}

size_t Trap::take(const OnPage &on_page) const {
    const auto *entries =
        reinterpret_cast<const kvm_hotsnap_entry *>(area_ + create_.entries_offset);
    size_t pages = 0;
    while (true) {
        uint32_t tail = ring_->tail;
        if (tail == __atomic_load_n(&ring_->head, __ATOMIC_ACQUIRE)) {
            if (__atomic_load_n(&ring_->overflow, __ATOMIC_ACQUIRE) == 0) {
                return pages;
            }
            must(ioctl(fd_.get(), KVM_HOTSNAP_DRAIN), "KVM_HOTSNAP_DRAIN");
            continue;
        }
        const uint32_t slot = tail & (create_.ring_entries - 1);
        uint32_t state;
        while ((state = __atomic_load_n(&entries[slot].state, __ATOMIC_ACQUIRE)) ==
               KVM_HOTSNAP_ENTRY_EMPTY) {
        }
        if (state == KVM_HOTSNAP_ENTRY_PAGE) {
            on_page((entries[slot].addr - machine_.memory().address()) / page,
                    area_ + create_.pages_offset + slot * page);
            pages++;
        }
        __atomic_store_n(&ring_->tail, tail + 1, __ATOMIC_RELEASE);
    }
}

} // namespace hotsnap::kvmtest
