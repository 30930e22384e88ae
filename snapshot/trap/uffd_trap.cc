// SPDX-License-Identifier: GPL-2.0-or-later
#include "trap/uffd_trap.h"

#include "base/error.h"
#include "trap/uffd_events.h"
#include "trap/uffd_open.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

// These are younger than the oldest kernel headers this is built with.
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif

namespace hotsnap::memory {

namespace {

// Unregistering holds mmap_lock for writing, and page faults of the whole program wait: about
// 0.3 ms for this much memory in 4 KiB pages.
constexpr uint64_t detach_slice = 16 << 20;

constexpr uint64_t pagemap_swapped = uint64_t{1} << 62;
constexpr uint64_t pagemap_frame = (uint64_t{1} << 55) - 1;

uint64_t needed_features(const GuestMemory &memory) {
    uint64_t needed = UFFD_FEATURE_PAGEFAULT_FLAG_WP;
    for (const MemoryBlock &block : memory.blocks()) {
        if (!block.read_only && (block.shared || block.fd >= 0 || block.huge())) {
            needed |= UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
        }
    }
    return needed;
}

uint64_t start_of(const MemoryBlock &block) {
    return reinterpret_cast<uint64_t>(block.host);
}

} // namespace

void UffdTrap::attach(const GuestMemory &memory) {
    const uint64_t offered = offered_uffd_features();
    const uint64_t needed = needed_features(memory);
    if ((offered & UFFD_FEATURE_PAGEFAULT_FLAG_WP) == 0) {
        throw Error("this kernel's userfaultfd cannot protect against writes; Linux 5.7 or newer "
                    "with CONFIG_HAVE_ARCH_USERFAULTFD_WP is needed");
    }
    if ((needed & ~offered) != 0) {
        throw Error("this kernel's userfaultfd cannot protect shared or huge-page memory against "
                    "writes; use Linux 5.19 or newer, or give the guest private memory "
                    "(-object memory-backend-ram)");
    }
    wp_unpopulated_ = wanted_.wp_unpopulated && (offered & UFFD_FEATURE_WP_UNPOPULATED) != 0;
    uffd_ = open_uffd();
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = needed | (offered & UFFD_FEATURE_THREAD_ID) |
                   (wp_unpopulated_ ? UFFD_FEATURE_WP_UNPOPULATED : 0);
    if (ioctl(uffd_.get(), UFFDIO_API, &api) < 0) {
        throw system_error(errno, "userfaultfd refuses the features it offers");
    }
    wake_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!wake_) {
        throw system_error(errno, "cannot make an eventfd", "raise the limit of open files");
    }
    memory_ = &memory;
    for (const MemoryBlock &block : memory.blocks()) {
        if (!block.read_only) {
            attach_block(block);
        }
    }
    absent_entry_ = sample_absent_entry();
}

void UffdTrap::attach_block(const MemoryBlock &block) const {
    uffdio_register request{};
    request.range = {start_of(block), block.mapped_length()};
    request.mode = UFFDIO_REGISTER_MODE_WP;
    if (ioctl(uffd_.get(), UFFDIO_REGISTER, &request) < 0) {
        const char *hint = "";
        if (errno == EBUSY) {
            hint = "something else (postcopy, another snapshot) traps this memory already";
        } else if (errno == EINVAL) {
            hint = "only anonymous, memfd/tmpfs and hugetlbfs memory can be trapped; memory "
                   "backed by a file on disk cannot";
        }
        throw system_error(errno, "cannot trap writes to memory block \"" + block.idstr + "\"",
                           hint);
    }
    if ((request.ioctls & (uint64_t{1} << _UFFDIO_WRITEPROTECT)) == 0) {
        throw Error("memory block \"" + block.idstr +
                    "\" cannot be protected against writes by "
                    "this kernel's userfaultfd");
    }
}

// A kernel that leaves unpopulated anonymous memory unprotected (before 6.4) has to be given
// something to protect: reading a page maps the shared zero page there. No memory is allocated.
void UffdTrap::prepare(const PageRun &run) {
    const MemoryBlock &block = *run.block;
    if (wp_unpopulated_ || block.read_only || block.shared || block.fd >= 0 || block.huge()) {
        return;
    }
    const volatile std::byte *page = run.host();
    for (uint64_t i = 0; i < run.count; i++) {
        (void)page[i * page_bytes];
    }
}

void UffdTrap::protect(uint64_t start, uint64_t length, bool on) const {
    uffdio_writeprotect request{};
    request.range = {start, length};
    request.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0;
    while (ioctl(uffd_.get(), UFFDIO_WRITEPROTECT, &request) < 0) {
        // EAGAIN: the mappings of the process are changing at this moment.
        if (errno == EAGAIN || errno == EINTR) {
            continue;
        }
        // ENOENT: no longer registered (detached, or unmapped), so nothing is protected.
        if (!on && errno == ENOENT) {
            return;
        }
        throw system_error(errno, on ? "cannot protect guest memory against writes"
                                     : "cannot remove the write protection of guest memory");
    }
}

void UffdTrap::arm(const PageRun &run) {
    if (!run.block->read_only) {
        const uint64_t mask = run.block->page_size - 1;
        protect(reinterpret_cast<uint64_t>(run.host()), (run.bytes() + mask) & ~mask, true);
    }
}

void UffdTrap::release(const PageRun &run) {
    if (!run.block->read_only && !detached_.load(std::memory_order_acquire)) {
        const uint64_t mask = run.block->page_size - 1;
        protect(reinterpret_cast<uint64_t>(run.host()), (run.bytes() + mask) & ~mask, false);
    }
}

size_t UffdTrap::next_faults(std::span<WriteFault> faults) {
    return read_page_faults(uffd_.get(), faults, "cannot read write faults from userfaultfd");
}

void UffdTrap::wait() {
    wait_for_faults(uffd_.get(), wake_.get(), -1);
}

void UffdTrap::wake() {
    wake_waiter(wake_.get());
}

void UffdTrap::detach(bool all_released) {
    const std::lock_guard lock(detaching_);
    if (memory_ == nullptr || detached_.exchange(true)) {
        return;
    }
    for (const MemoryBlock &block : memory_->blocks()) {
        if (!block.read_only) {
            detach_block(block, all_released);
        }
    }
}

// Removes first the protection, which wakes the waiting threads, then the registration, which does
// not: for write protection the kernel's unregister wakes nobody. In between no thread can begin to
// wait, since nothing is protected any more.
void UffdTrap::detach_block(const MemoryBlock &block, bool all_released) const {
    const uint64_t end = start_of(block) + block.mapped_length();
    // hugetlbfs: a slice must be made of whole pages.
    const uint64_t slice = std::max(detach_slice, block.page_size);
    for (uint64_t at = start_of(block); at < end; at += slice) {
        const uint64_t length = std::min(slice, end - at);
        if (!all_released) {
            protect(at, length, false);
        }
        uffdio_range range{at, length};
        ioctl(uffd_.get(), UFFDIO_UNREGISTER, &range); // fails for unmapped memory: fine
    }
}

// Protects an untouched page of our own and looks how the kernel shows it. The entry of a
// protected hole has the swap bit set (Linux 6.4 to at least 6.18), so a real swap entry or a page
// in migration can look the same, unless the frame field can be seen (CAP_SYS_ADMIN). That field
// holds the kind of entry, so an entry equal to the sample then is a protected hole.
std::optional<uint64_t> UffdTrap::sample_absent_entry() const {
    if (!wp_unpopulated_) {
        return std::nullopt;
    }
    void *page =
        mmap(nullptr, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        return std::nullopt;
    }
    const auto address = reinterpret_cast<uint64_t>(page);
    std::optional<uint64_t> sample;
    const Fd pagemap(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
    uffdio_register request{};
    request.range = {address, page_bytes};
    request.mode = UFFDIO_REGISTER_MODE_WP;
    if (pagemap && ioctl(uffd_.get(), UFFDIO_REGISTER, &request) == 0) {
        protect(address, page_bytes, true);
        uint64_t entry;
        if (pread(pagemap.get(), &entry, sizeof(entry),
                  static_cast<off_t>(address / page_bytes * sizeof(entry))) == sizeof(entry) &&
            ((entry & pagemap_swapped) == 0 || (entry & pagemap_frame) != 0)) {
            sample = entry;
        }
    }
    munmap(page, page_bytes);
    return sample;
}

} // namespace hotsnap::memory
