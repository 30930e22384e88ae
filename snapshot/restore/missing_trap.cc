// SPDX-License-Identifier: GPL-2.0-or-later
#include "restore/missing_trap.h"

#include "base/error.h"
#include "guest/guest_memory.h"
#include "trap/uffd_events.h"
#include "trap/uffd_open.h"

#include <algorithm>
#include <cerrno>
#include <linux/userfaultfd.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace hotsnap::memory {

MissingTrap::MissingTrap(bool shared, bool huge) {
    const uint64_t offered = offered_uffd_features();
    const uint64_t needed =
        (shared ? UFFD_FEATURE_MISSING_SHMEM : 0) | (huge ? UFFD_FEATURE_MISSING_HUGETLBFS : 0);
    if ((needed & ~offered) != 0) {
        throw Error("this kernel's userfaultfd cannot load memory of this kind on demand; give the "
                    "guest private memory (-object memory-backend-ram), or load in full");
    }
    uffd_ = open_uffd();
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = needed | (offered & UFFD_FEATURE_THREAD_ID);
    if (ioctl(uffd_.get(), UFFDIO_API, &api) < 0) {
        throw system_error(errno, "userfaultfd refuses the features it offers");
    }
    wake_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!wake_) {
        throw system_error(errno, "cannot make an eventfd", "raise the limit of open files");
    }
}

bool MissingTrap::trap(uint64_t address, uint64_t length, bool huge) {
    uffdio_register request{};
    request.range = {address, length};
    request.mode = UFFDIO_REGISTER_MODE_MISSING;
    if (ioctl(uffd_.get(), UFFDIO_REGISTER, &request) < 0) {
        if (errno == EINVAL || errno == EPERM) {
            return false;
        }
        throw system_error(errno, "cannot trap the use of memory that is not loaded",
                           errno == EBUSY ? "something else (postcopy, a snapshot) traps it already"
                           : errno == ENOMEM ? "raise sysctl vm.max_map_count, or load in full"
                                             : "load in full");
    }
    const uint64_t needed = uint64_t{1} << _UFFDIO_COPY | uint64_t{huge ? 0u : 1u}
                                                              << _UFFDIO_ZEROPAGE;
    return (request.ioctls & needed) == needed;
}

void MissingTrap::release(uint64_t address, uint64_t length) {
    uffdio_range range{address, length};
    ioctl(uffd_.get(), UFFDIO_UNREGISTER, &range);
}

namespace {

// Calls `once(done)`, which tries to install what follows `done` bytes, until all is installed. It
// returns the kernel's count: bytes, or a negative errno.
template <typename Once>
MissingTrap::Outcome install_all(uint64_t length, const char *what, Once once) {
    for (uint64_t done = 0; done < length;) {
        const int64_t result = once(done);
        if (result > 0) {
            done += static_cast<uint64_t>(result);
        } else if (result == -EEXIST) {
            return MissingTrap::Outcome::occupied;
        } else if (result == -ENOENT || result == -ESRCH || result == -EINVAL) {
            return MissingTrap::Outcome::gone;
        } else if (result != -EAGAIN && result != -EINTR) {
            throw system_error(static_cast<int>(-result), what, "free memory on this host");
        }
    }
    return MissingTrap::Outcome::installed;
}

} // namespace

MissingTrap::Outcome MissingTrap::install(uint64_t address, std::span<const std::byte> pages) {
    return install_all(pages.size(), "cannot install a page of guest memory", [&](uint64_t done) {
        uffdio_copy copy{};
        copy.dst = address + done;
        copy.src = reinterpret_cast<uint64_t>(pages.data()) + done;
        copy.len = pages.size() - done;
        if (ioctl(uffd_.get(), UFFDIO_COPY, &copy) < 0 && errno != EAGAIN) {
            return -static_cast<int64_t>(errno);
        }
        return static_cast<int64_t>(copy.copy);
    });
}

MissingTrap::Outcome MissingTrap::install_zeros(uint64_t address, uint64_t length) {
    return install_all(length, "cannot install a page of zeros", [&](uint64_t done) {
        uffdio_zeropage zero{};
        zero.range = {address + done, length - done};
        if (ioctl(uffd_.get(), UFFDIO_ZEROPAGE, &zero) < 0 && errno != EAGAIN) {
            return -static_cast<int64_t>(errno);
        }
        return static_cast<int64_t>(zero.zeropage);
    });
}

void MissingTrap::wake_waiters(uint64_t address, uint64_t length) {
    uffdio_range range{address, length};
    ioctl(uffd_.get(), UFFDIO_WAKE, &range);
}

size_t MissingTrap::next_faults(std::span<Fault> faults) {
    return read_page_faults(uffd_.get(), faults, "cannot read faults from userfaultfd");
}

void MissingTrap::wait(int milliseconds) {
    wait_for_faults(uffd_.get(), wake_.get(), milliseconds);
}

void MissingTrap::wake() {
    wake_waiter(wake_.get());
}

} // namespace hotsnap::memory
