// SPDX-License-Identifier: GPL-2.0-or-later
#include "trap/kvm_calls.h"

#include <cerrno>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

namespace hotsnap::memory {

int kvm_hotsnap_version(int vm_fd) {
    const int version = vm_fd < 0 ? 0 : ioctl(vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_HOTSNAP);
    return version < 0 ? 0 : version;
}

KvmVm::~KvmVm() {
    if (area_ != nullptr) {
        munmap(area_, area_bytes_);
    }
}

int KvmVm::create(kvm_hotsnap_create &request) {
    fd_ = Fd(ioctl(vm_fd_, KVM_HOTSNAP_CREATE, &request));
    return fd_ ? 0 : errno;
}

std::byte *KvmVm::map(size_t bytes) {
    void *area =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_.get(), 0);
    if (area == MAP_FAILED) {
        return nullptr;
    }
    area_ = area;
    area_bytes_ = bytes;
    return static_cast<std::byte *>(area);
}

int KvmVm::call(unsigned long request, void *argument) {
    while (ioctl(fd_.get(), request, argument) < 0) {
        if (errno != EINTR) {
            return errno;
        }
    }
    return 0;
}

} // namespace hotsnap::memory
