// SPDX-License-Identifier: GPL-2.0-or-later
#include "trap/kvm_trap.h"

#include "base/error.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace hotsnap::memory {

namespace {

// 4 MiB of pages. KVM writes to few pages; more than this at once wait in the kernel.
constexpr uint32_t ring_entries = 1024;

constexpr uint64_t word_bits = 64;

} // namespace

void KvmTrap::attach(const GuestMemory &memory) {
    std::vector<kvm_hotsnap_region> regions;
    for (const MemoryBlock &block : memory.blocks()) {
        if (!block.read_only) {
            regions.push_back({reinterpret_cast<uint64_t>(block.host), block.length, 0, 0});
        }
    }
    kvm_hotsnap_create request{};
    request.ring_entries = ring_entries;
    request.nr_regions = static_cast<uint32_t>(regions.size());
    request.regions = reinterpret_cast<uint64_t>(regions.data());
    if (const int refusal = kvm_->create(request); refusal != 0) {
        const char *hint = "";
        if (refusal == ENOTTY) {
            hint = "load the patched KVM modules (kvm-patches/), or use engine uffd";
        } else if (refusal == EBUSY) {
            hint = "another snapshot of this VM traps its memory already";
        } else if (refusal == EOPNOTSUPP) {
            hint = "the memory of a confidential VM cannot be saved";
        }
        throw system_error(refusal, "KVM cannot trap writes to guest memory", hint);
    }
    std::byte *area = kvm_->map(request.mmap_bytes);
    if (area == nullptr) {
        throw system_error(errno, "cannot map KVM's shared memory", "free memory and try again");
    }
    wake_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!wake_) {
        throw system_error(errno, "cannot make an eventfd", "raise the limit of open files");
    }
    auto region = regions.begin();
    for (const MemoryBlock &block : memory.blocks()) {
        bitmaps_.push_back(block.read_only
                               ? nullptr
                               : reinterpret_cast<uint64_t *>(area + region++->bitmap_offset));
    }
    ring_ = std::make_unique<CopyRing>(area, request);
    memory_ = &memory;
}

void KvmTrap::ask(unsigned long request, void *argument, const char *what) const {
    if (const int refusal = kvm_->call(request, argument); refusal != 0) {
        throw system_error(refusal, what,
                           refusal == EBUSY ? "a guest that itself runs guests on an Intel host "
                                              "cannot be trapped; use engine uffd"
                                            : "");
    }
}

void KvmTrap::cut() {
    kvm_hotsnap_arm request{arm_flags_, 0};
    ask(KVM_HOTSNAP_ARM, &request, "KVM cannot arm the write traps");
}

// Frees the page tables that the cut put out of use.
void KvmTrap::after_resume() {
    ask(KVM_HOTSNAP_REAP, nullptr, "KVM cannot free old page tables");
}

void KvmTrap::drain() {
    ask(KVM_HOTSNAP_DRAIN, nullptr, "KVM cannot hand over the pages it saved");
}

uint64_t *KvmTrap::bits_of(const PageRun &run) const {
    return bitmaps_[static_cast<size_t>(run.block - memory_->blocks().data())];
}

// KVM does the same with test_and_set_bit(), on the same words (little-endian, so bytes and longs
// agree). Acquire and release: the copies are made before, and nothing that follows comes earlier.
GroupMask KvmTrap::confirm(const PageRun &group, GroupMask mask) {
    uint64_t *bits = bits_of(group);
    if (bits == nullptr) {
        return mask;
    }
    unsigned clear = 0;
    for (uint64_t i = 0; i < group_pages;) {
        const uint64_t page = group.first + i;
        const uint64_t skip = page % word_bits;
        const uint64_t some = std::min<uint64_t>(word_bits - skip, group_pages - i);
        const uint64_t wanted = (uint64_t{mask} >> i & ((uint64_t{1} << some) - 1)) << skip;
        if (wanted != 0) {
            std::atomic_ref<uint64_t> word(bits[page / word_bits]);
            const uint64_t before = word.fetch_or(wanted, std::memory_order_acq_rel);
            clear |= static_cast<unsigned>((wanted & ~before) >> skip << i);
        }
        i += some;
    }
    return static_cast<GroupMask>(clear);
}

bool KvmTrap::confirmed(const PageRun &run) const {
    uint64_t *bits = bits_of(run);
    if (bits == nullptr) {
        return true;
    }
    for (uint64_t page = run.first; page < run.first + run.count;) {
        const uint64_t skip = page % word_bits;
        const uint64_t some = std::min(word_bits - skip, run.first + run.count - page);
        const uint64_t wanted = (~uint64_t{0} >> (word_bits - some)) << skip;
        const uint64_t word =
            std::atomic_ref<uint64_t>(bits[page / word_bits]).load(std::memory_order_acquire);
        if ((word & wanted) != wanted) {
            return false;
        }
        page += some;
    }
    return true;
}

void KvmTrap::wait() {
    std::array<pollfd, 2> fds{{{kvm_->pollable(), POLLIN, 0}, {wake_.get(), POLLIN, 0}}};
    poll(fds.data(), fds.size(), -1);
    uint64_t count;
    if ((fds[1].revents & POLLIN) != 0 && read(wake_.get(), &count, sizeof(count)) < 0) {
        return; // another thread took the token
    }
}

void KvmTrap::wake() {
    const uint64_t one = 1;
    // EAGAIN: the counter is full, which wakes as well.
    [[maybe_unused]] const ssize_t ignored = write(wake_.get(), &one, sizeof(one));
}

void KvmTrap::detach(bool) {
    const std::lock_guard lock(detaching_);
    if (memory_ != nullptr && !detached_) {
        detached_ = true;
        kvm_->call(KVM_HOTSNAP_DISARM, nullptr); // cannot fail
    }
}

} // namespace hotsnap::memory
