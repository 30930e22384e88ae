// SPDX-License-Identifier: GPL-2.0-or-later
//
// Engine "uffd": userfaultfd write protection of stock Linux kernels (5.7 anonymous memory, 5.19
// shared and hugetlbfs memory). Works under KVM and TCG: kernel-mode faults (KVM, io_uring, aio,
// read(2) into guest memory) are trapped too.
#ifndef HOTSNAP_TRAP_UFFD_TRAP_H
#define HOTSNAP_TRAP_UFFD_TRAP_H

#include "os/file.h"
#include "trap/write_trap.h"

#include <atomic>
#include <mutex>

namespace hotsnap::memory {

class UffdTrap final : public WriteTrap {
  public:
    // The features to use of those the kernel offers; tests use fewer to act as on older kernels.
    struct Features {
        bool wp_unpopulated = true;
    };

    UffdTrap() : UffdTrap(Features{}) {}
    explicit UffdTrap(Features wanted) : wanted_(wanted) {}

    const char *name() const override { return "uffd"; }
    bool traps() const override { return true; }
    void attach(const GuestMemory &memory) override;
    void prepare(const PageRun &run) override;
    void arm(const PageRun &run) override;
    void release(const PageRun &run) override;
    size_t next_faults(std::span<WriteFault> faults) override;
    void wait() override;
    void wake() override;
    void detach(bool all_released) override;
    std::optional<uint64_t> absent_pagemap_entry() const override { return absent_entry_; }

  private:
    void protect(uint64_t start, uint64_t length, bool on) const;
    void attach_block(const MemoryBlock &block) const;
    void detach_block(const MemoryBlock &block, bool all_released) const;
    std::optional<uint64_t> sample_absent_entry() const;

    Features wanted_;
    Fd uffd_;
    Fd wake_;
    const GuestMemory *memory_ = nullptr;
    bool wp_unpopulated_ = false;
    std::optional<uint64_t> absent_entry_;
    std::atomic<bool> detached_{false};
    std::mutex detaching_; // a second detach returns when the first is done
};

} // namespace hotsnap::memory
#endif
