// SPDX-License-Identifier: GPL-2.0-or-later
#include "slow_memory.h"

#include "cases.h"

#include <linux/userfaultfd.h>

#include <cerrno>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace hotsnap::kvmtest {

SlowMemory::SlowMemory(const Machine &machine) : memory_(MiB) {
    faults_ = Fd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC)));
    if (faults_.get() < 0) {
        throw Skipped("there is no userfaultfd for this process");
    }
    uffdio_api api{};
    api.api = UFFD_API;
    must(ioctl(faults_.get(), UFFDIO_API, &api), "UFFDIO_API");
    uffdio_register range{};
    range.range = {memory_.address(), memory_.bytes()};
    range.mode = UFFDIO_REGISTER_MODE_MISSING;
    must(ioctl(faults_.get(), UFFDIO_REGISTER, &range), "UFFDIO_REGISTER");
    kvm_userspace_memory_region slot{1, 0, Machine::alias, memory_.bytes(), memory_.address()};
    must(ioctl(machine.vm(), KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
}

void SlowMemory::come() const {
    uffdio_zeropage zero{};
    zero.range = {memory_.address(), page};
    must(ioctl(faults_.get(), UFFDIO_ZEROPAGE, &zero) < 0 && errno != EEXIST ? -1 : 0,
         "UFFDIO_ZEROPAGE");
}

} // namespace hotsnap::kvmtest
