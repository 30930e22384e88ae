// SPDX-License-Identifier: GPL-2.0-or-later
//
// The calls of KvmTrap to KVM (kvm_hotsnap.h). KvmVm calls the kernel; tests bring a KVM of their
// own.
#ifndef HOTSNAP_TRAP_KVM_CALLS_H
#define HOTSNAP_TRAP_KVM_CALLS_H

#include "os/file.h"

#include <cstddef>
#include <linux/kvm_hotsnap.h>

namespace hotsnap::memory {

// Calls that can fail return 0 or an errno.
class KvmCalls {
  public:
    virtual ~KvmCalls() = default;
    KvmCalls() = default;
    KvmCalls(const KvmCalls &) = delete;
    KvmCalls &operator=(const KvmCalls &) = delete;

    // KVM_HOTSNAP_CREATE; the other calls are to the object that it creates.
    virtual int create(kvm_hotsnap_create &request) = 0;
    // Maps the memory shared with KVM, for as long as this object lives. Null with errno.
    virtual std::byte *map(size_t bytes) = 0;
    // A file descriptor that is readable when the ring has something to look at.
    virtual int pollable() const = 0;
    virtual int call(unsigned long request, void *argument) = 0;
};

// The version of the interface that the KVM of this VM offers; 0: none, or no VM.
int kvm_hotsnap_version(int vm_fd);

class KvmVm final : public KvmCalls {
  public:
    // The caller keeps `vm_fd` and leaves it open.
    explicit KvmVm(int vm_fd) : vm_fd_(vm_fd) {}
    ~KvmVm() override;
    int create(kvm_hotsnap_create &request) override;
    std::byte *map(size_t bytes) override;
    int pollable() const override { return fd_.get(); }
    int call(unsigned long request, void *argument) override;

  private:
    int vm_fd_;
    Fd fd_;
    void *area_ = nullptr;
    size_t area_bytes_ = 0;
};

} // namespace hotsnap::memory
#endif
