// SPDX-License-Identifier: GPL-2.0-or-later
#include "image/staging_pool.h"

#include "base/error.h"

#include <algorithm>
#include <cerrno>
#include <sys/mman.h>

namespace hotsnap::memory {

StagingPool::StagingPool(size_t slots, size_t reserved_for_faults)
    : slots_(slots), reserved_(reserved_for_faults) {
    const size_t bytes = slots * group_bytes;
    void *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) {
        throw system_error(errno,
                           "cannot get " + std::to_string(bytes) + " bytes of staging memory",
                           "free memory or ask for less staging");
    }
    base_ = static_cast<std::byte *>(memory);
    free_.reserve(slots);
    for (size_t i = slots; i > 0; i--) {
        free_.push_back(base_ + (i - 1) * group_bytes);
    }
}

StagingPool::~StagingPool() {
    munmap(base_, slots_ * group_bytes);
}

// How many slots must be free for a user to take `count`.
size_t StagingPool::needed(User user, size_t count) const {
    return count + (user == User::fault ? 0 : reserved_);
}

void StagingPool::take(std::span<Slot> out) {
    for (Slot &slot : out) {
        slot = free_.back();
        free_.pop_back();
    }
}

bool StagingPool::try_acquire(User user, std::span<Slot> out) {
    const std::lock_guard lock(mutex_);
    if (closed_ || free_.size() < needed(user, out.size())) {
        return false;
    }
    take(out);
    return true;
}

bool StagingPool::acquire(User user, std::span<Slot> out) {
    std::unique_lock lock(mutex_);
    const size_t need = needed(user, out.size());
    if (user == User::fault) {
        for_faults_.wait(lock, [&] { return closed_ || free_.size() >= need; });
    } else if (free_.size() < need) {
        background_wants_ = std::max(need, needed(user, (slots_ - reserved_) / 4));
        for_background_.wait(lock, [&] { return closed_ || free_.size() >= background_wants_; });
        background_wants_ = 0;
    }
    if (closed_) {
        return false;
    }
    take(out);
    return true;
}

void StagingPool::release(std::span<const Slot> slots) {
    bool wake_background;
    {
        const std::lock_guard lock(mutex_);
        free_.insert(free_.end(), slots.begin(), slots.end());
        wake_background = background_wants_ != 0 && free_.size() >= background_wants_;
    }
    for_faults_.notify_all();
    if (wake_background) {
        for_background_.notify_all();
    }
}

void StagingPool::close() {
    {
        const std::lock_guard lock(mutex_);
        closed_ = true;
    }
    for_faults_.notify_all();
    for_background_.notify_all();
}

} // namespace hotsnap::memory
