// SPDX-License-Identifier: GPL-2.0-or-later
//
// The kernel's side of engine "kvm" in user space: the protocol of kvm_hotsnap.h with the same
// order of steps as kvm-patches/ (copy, test-and-set, publish), so that the library's side can be
// tested on any host. The "guest" asks before each write, as hardware would.
#pragma once

#include "trap/kvm_calls.h"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

namespace hotsnap::memory::test {

class FakeKvm {
  public:
    explicit FakeKvm(uint32_t ring_entries = 1024) : ring_entries_(ring_entries) {}

    // For KvmTrap; this object must live longer.
    std::unique_ptr<KvmCalls> calls();

    // Whether a vCPU that writes there now would leave to user space.
    bool guest_exits(const std::byte *at) const;

    // The steps of KVM before it writes there itself. `between` runs when the bit has been set,
    // before the copy is published.
    void before_write(const std::byte *at, void (*between)(const std::byte *) = nullptr);

    // As if the kernel had no memory for a copy.
    void lose();

    bool armed() const { return armed_guest_ || armed_kvm_; }
    uint64_t reaps() const { return reaps_; }
    uint64_t drained() const { return drained_; }
    int fail_arm = 0; // errno

  private:
    class Calls;
    struct Area {
        uint64_t start, end;
        std::atomic<uint64_t> *bits;
    };
    struct Spare {
        uint64_t address;
        std::vector<std::byte> page;
    };

    int create(kvm_hotsnap_create &request);
    int call(unsigned long request, void *argument);
    void drain();
    std::atomic<uint64_t> *word_of(const std::byte *at, uint64_t &bit) const;
    bool reserve(uint32_t &index);
    std::byte *page_of(uint32_t index);
    void publish(uint32_t index, uint64_t address, uint32_t state);

    uint32_t ring_entries_;
    Fd readable_;
    std::unique_ptr<std::byte[]> area_;
    size_t area_bytes_ = 0;
    kvm_hotsnap_ring *ring_ = nullptr;
    kvm_hotsnap_entry *entries_ = nullptr;
    std::byte *pages_ = nullptr;
    std::vector<Area> areas_;
    std::atomic<bool> armed_guest_{false};
    std::atomic<bool> armed_kvm_{false};
    std::atomic<uint64_t> reaps_{0};
    std::atomic<uint64_t> drained_{0};

    std::mutex mutex_; // protects head and spares
    uint32_t head_ = 0;
    std::deque<Spare> spares_;
};

} // namespace hotsnap::memory::test
