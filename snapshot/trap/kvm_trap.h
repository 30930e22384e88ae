// SPDX-License-Identifier: GPL-2.0-or-later
//
// Engine "kvm": write traps inside a patched KVM (kvm-patches/; HotSnap, LISA '13, section 4.2).
//
// KVM and the library share one "saved" bit a page. While armed, the guest cannot write to a page
// whose bit is clear without leaving to QEMU, and KVM saves the page before it writes there itself.
// QEMU's own writes are not trapped at all: QEMU must announce each of them beforehand
// (hs_snapshot_dma_write).
//
// Which copy counts. The library and KVM may copy a page at the same time, without a lock. Each
// copies first and then sets the bit by an atomic test-and-set. The side that finds the bit clear
// has saved the page; the other side throws its copy away. Nobody writes to a page before its bit
// is set, so the winner's copy was made before the first write. Among the library's threads the
// ledger decides which one copies, so a thread that finds the bit set knows that KVM set it.
//
// The same holds for absent pages, which are taken as zero without a copy: a page that is absent at
// any moment between the cut and a test-and-set that finds the bit clear was absent at the cut,
// since nobody wrote in between.
//
// Arming is O(1) and needs no preparation: no userfaultfd, no passes.
#ifndef HOTSNAP_TRAP_KVM_TRAP_H
#define HOTSNAP_TRAP_KVM_TRAP_H

#include "os/file.h"
#include "trap/kvm_calls.h"
#include "trap/kvm_ring.h"
#include "trap/write_trap.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

namespace hotsnap::memory {

class KvmTrap : public WriteTrap {
  public:
    // `arm_flags`: KVM_HOTSNAP_ARM_NO_..., for tests.
    KvmTrap(std::unique_ptr<KvmCalls> kvm, uint32_t arm_flags)
        : kvm_(std::move(kvm)), arm_flags_(arm_flags) {}

    const char *name() const override { return "kvm"; }
    bool traps() const override { return true; }
    void attach(const GuestMemory &memory) override;
    void prepare(const PageRun &) override {}
    void arm(const PageRun &) override {}
    void release(const PageRun &) override {} // confirm() did
    size_t next_faults(std::span<WriteFault>) override { return 0; }
    void wait() override;
    void wake() override;
    void detach(bool all_released) override;

    bool has_bitmap() const override { return true; }
    void cut() override;
    void after_resume() override;
    GroupMask confirm(const PageRun &group, GroupMask mask) override;
    bool confirmed(const PageRun &run) const override;
    CopyRing *ring() override { return ring_.get(); }

    // Has KVM move into the ring the pages that wait for room there.
    void drain();

  private:
    uint64_t *bits_of(const PageRun &run) const;
    void ask(unsigned long request, void *argument, const char *what) const;

    std::unique_ptr<KvmCalls> kvm_;
    uint32_t arm_flags_;
    Fd wake_;
    const GuestMemory *memory_ = nullptr;
    std::vector<uint64_t *> bitmaps_; // by index of block; null: never written
    std::unique_ptr<CopyRing> ring_;
    std::mutex detaching_;
    bool detached_ = false; // under detaching_
};

} // namespace hotsnap::memory
#endif
