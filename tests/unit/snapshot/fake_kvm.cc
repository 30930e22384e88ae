// SPDX-License-Identifier: GPL-2.0-or-later
#include "fake_kvm.h"

#include <cerrno>
#include <cstring>
#include <sys/eventfd.h>
#include <unistd.h>

namespace hotsnap::memory::test {

namespace {

constexpr uint64_t page = 4096;

uint64_t rounded(uint64_t bytes) {
    return (bytes + page - 1) / page * page;
}

uint64_t address_of(const std::byte *at) {
    return reinterpret_cast<uint64_t>(at);
}

// Copies from guest memory, which other threads write to in a way that no sanitizer sees (guest.h).
__attribute__((noinline, no_sanitize("thread", "address"))) void copy_page(std::byte *to,
                                                                           const std::byte *from) {
    for (uint64_t i = 0; i < page / 8; i++) {
        const uint64_t word = reinterpret_cast<const volatile uint64_t *>(from)[i];
        std::memcpy(to + i * 8, &word, sizeof(word));
    }
}

std::atomic_ref<uint32_t> shared(uint32_t &word) {
    return std::atomic_ref<uint32_t>(word);
}

} // namespace

class FakeKvm::Calls : public KvmCalls {
  public:
    explicit Calls(FakeKvm &kvm) : kvm_(kvm) {}
    int create(kvm_hotsnap_create &request) override { return kvm_.create(request); }
    std::byte *map(size_t bytes) override {
        return bytes == kvm_.area_bytes_ ? kvm_.area_.get() : nullptr;
    }
    int pollable() const override { return kvm_.readable_.get(); }
    int call(unsigned long request, void *argument) override {
        return kvm_.call(request, argument);
    }

  private:
    FakeKvm &kvm_;
};

std::unique_ptr<KvmCalls> FakeKvm::calls() {
    return std::make_unique<Calls>(*this);
}

int FakeKvm::create(kvm_hotsnap_create &request) {
    auto *regions = reinterpret_cast<kvm_hotsnap_region *>(request.regions);
    request.ring_entries = ring_entries_; // the tests choose
    request.entries_offset = page;
    request.pages_offset = page + rounded(ring_entries_ * sizeof(kvm_hotsnap_entry));
    uint64_t at = request.pages_offset + ring_entries_ * page;
    for (uint32_t i = 0; i < request.nr_regions; i++) {
        if (regions[i].userspace_addr % page != 0 || regions[i].bytes % page != 0) {
            return EINVAL;
        }
        regions[i].bitmap_offset = at;
        at += rounded((regions[i].bytes / page + 63) / 64 * 8);
    }
    request.mmap_bytes = area_bytes_ = at;
    area_.reset(new std::byte[at]());
    readable_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    ring_ = reinterpret_cast<kvm_hotsnap_ring *>(area_.get());
    entries_ = reinterpret_cast<kvm_hotsnap_entry *>(area_.get() + request.entries_offset);
    pages_ = area_.get() + request.pages_offset;
    for (uint32_t i = 0; i < request.nr_regions; i++) {
        areas_.push_back(
            {regions[i].userspace_addr, regions[i].userspace_addr + regions[i].bytes,
             reinterpret_cast<std::atomic<uint64_t> *>(area_.get() + regions[i].bitmap_offset)});
    }
    return 0;
}

int FakeKvm::call(unsigned long request, void *argument) {
    switch (request) {
    case KVM_HOTSNAP_ARM: {
        const uint32_t flags = static_cast<const kvm_hotsnap_arm *>(argument)->flags;
        armed_guest_ = fail_arm == 0 && (flags & KVM_HOTSNAP_ARM_NO_GUEST_TRAP) == 0;
        armed_kvm_ = fail_arm == 0 && (flags & KVM_HOTSNAP_ARM_NO_KVM_TRAP) == 0;
        return fail_arm;
    }
    case KVM_HOTSNAP_DRAIN:
        drain();
        return 0;
    case KVM_HOTSNAP_REAP:
        reaps_++;
        return 0;
    case KVM_HOTSNAP_DISARM:
        armed_guest_ = false;
        armed_kvm_ = false;
        return 0;
    default:
        return ENOTTY;
    }
}

std::atomic<uint64_t> *FakeKvm::word_of(const std::byte *at, uint64_t &bit) const {
    for (const Area &area : areas_) {
        if (address_of(at) >= area.start && address_of(at) < area.end) {
            const uint64_t number = (address_of(at) - area.start) / page;
            bit = uint64_t{1} << number % 64;
            return area.bits + number / 64;
        }
    }
    return nullptr;
}

bool FakeKvm::guest_exits(const std::byte *at) const {
    uint64_t bit = 0;
    const std::atomic<uint64_t> *word = armed_guest_ ? word_of(at, bit) : nullptr;
    return word != nullptr && (word->load(std::memory_order_acquire) & bit) == 0;
}

bool FakeKvm::reserve(uint32_t &index) {
    if (head_ - shared(ring_->tail).load(std::memory_order_acquire) >= ring_entries_) {
        return false;
    }
    index = head_++;
    shared(entries_[index % ring_entries_].state).store(KVM_HOTSNAP_ENTRY_EMPTY);
    shared(ring_->head).store(head_, std::memory_order_release);
    return true;
}

std::byte *FakeKvm::page_of(uint32_t index) {
    return pages_ + index % ring_entries_ * page;
}

void FakeKvm::publish(uint32_t index, uint64_t address, uint32_t state) {
    kvm_hotsnap_entry &entry = entries_[index % ring_entries_];
    entry.addr = address;
    shared(entry.state).store(state, std::memory_order_release);
    // It stays readable for good: the reader then looks again and again, which does no harm here.
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t ignored = write(readable_.get(), &one, sizeof(one));
}

void FakeKvm::before_write(const std::byte *at, void (*between)(const std::byte *)) {
    at -= address_of(at) % page;
    uint64_t bit = 0;
    std::atomic<uint64_t> *word = armed_kvm_ ? word_of(at, bit) : nullptr;
    if (word == nullptr || (word->load() & bit) != 0) {
        return;
    }
    uint32_t index = 0;
    bool room;
    {
        const std::lock_guard lock(mutex_);
        room = spares_.empty() && reserve(index);
    }
    Spare spare{address_of(at), std::vector<std::byte>(room ? 0 : page)};
    copy_page(room ? page_of(index) : spare.page.data(), at);
    const bool ours = (word->fetch_or(bit) & bit) == 0;
    if (between != nullptr) {
        between(at);
    }
    if (room) {
        publish(index, address_of(at), ours ? KVM_HOTSNAP_ENTRY_PAGE : KVM_HOTSNAP_ENTRY_VOID);
    } else if (ours) {
        const std::lock_guard lock(mutex_);
        spares_.push_back(std::move(spare));
        shared(ring_->overflow).store(static_cast<uint32_t>(spares_.size()));
    }
}

void FakeKvm::drain() {
    for (;;) {
        uint32_t index = 0;
        Spare spare;
        {
            const std::lock_guard lock(mutex_);
            if (spares_.empty() || !reserve(index)) {
                return;
            }
            spare = std::move(spares_.front());
            spares_.pop_front();
            shared(ring_->overflow).store(static_cast<uint32_t>(spares_.size()));
        }
        std::memcpy(page_of(index), spare.page.data(), page);
        publish(index, spare.address, KVM_HOTSNAP_ENTRY_PAGE);
        drained_++;
    }
}

void FakeKvm::lose() {
    shared(ring_->lost).fetch_add(1);
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t ignored = write(readable_.get(), &one, sizeof(one));
}

} // namespace hotsnap::memory::test
