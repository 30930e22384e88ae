// SPDX-License-Identifier: GPL-2.0-or-later
#include "trap/uffd_open.h"

#include "base/error.h"

#include <cerrno>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

// Younger than the oldest kernel headers this is built with.
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

namespace hotsnap::memory {

Fd open_uffd() {
    const int flags = O_CLOEXEC | O_NONBLOCK;
    Fd fd(static_cast<int>(syscall(SYS_userfaultfd, flags)));
    if (fd) {
        return fd;
    }
    const int refusal = errno;
    if (refusal == ENOSYS) {
        throw Error("this kernel has no userfaultfd; use one built with CONFIG_USERFAULTFD");
    }
    // Since Linux 6.1 access may be granted through a device node instead of a sysctl.
    const Fd device(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
    if (device) {
        fd = Fd(ioctl(device.get(), USERFAULTFD_IOC_NEW, flags));
        if (fd) {
            return fd;
        }
    }
    throw system_error(refusal, "userfaultfd is not permitted",
                       "run with CAP_SYS_PTRACE, or set sysctl vm.unprivileged_userfaultfd=1, or "
                       "give this user read and write access to /dev/userfaultfd");
}

// The handshake fixes the features of a descriptor, so asking which features there are needs a
// descriptor of its own.
uint64_t offered_uffd_features() {
    const Fd fd = open_uffd();
    uffdio_api api{};
    api.api = UFFD_API;
    if (ioctl(fd.get(), UFFDIO_API, &api) < 0) {
        throw system_error(errno, "userfaultfd refuses its handshake");
    }
    return api.features;
}

} // namespace hotsnap::memory
