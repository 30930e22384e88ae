// SPDX-License-Identifier: GPL-2.0-or-later
//
// The buffer between write faults and storage: slots of 64 KiB, aligned for O_DIRECT, touched in
// advance so that taking one never faults.
//
// A part is reserved for faults: the background copy gets a slot only while more than that part is
// free, so it can never make a guest wait. When it has to wait, it sleeps until a quarter of its
// share is free, rather than waking up for every slot. A taker of several slots gets all or none,
// so two takers cannot wait for each other. The holder of a claim on a page already has its slots
// (page_ledger.h, rule 2), so the wait of a taker depends on storage alone.
#ifndef HOTSNAP_IMAGE_STAGING_POOL_H
#define HOTSNAP_IMAGE_STAGING_POOL_H

#include "guest/guest_memory.h"

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <span>
#include <vector>

namespace hotsnap::memory {

using Slot = std::byte *;

class StagingPool {
  public:
    enum class User { fault, background };

    // Throws when the memory cannot be allocated.
    StagingPool(size_t slots, size_t reserved_for_faults);
    ~StagingPool();
    StagingPool(const StagingPool &) = delete;
    StagingPool &operator=(const StagingPool &) = delete;

    // Fills `out` with slots, or takes none and returns false.
    bool try_acquire(User user, std::span<Slot> out);

    // As before, but waits. False only after close().
    bool acquire(User user, std::span<Slot> out);

    void release(std::span<const Slot> slots);

    // Ends all waits, now and later.
    void close();

    size_t slots() const { return slots_; }
    size_t index_of(Slot slot) const { return static_cast<size_t>(slot - base_) / group_bytes; }

  private:
    size_t needed(User user, size_t count) const;
    void take(std::span<Slot> out);

    size_t slots_;
    size_t reserved_;
    std::byte *base_;
    std::mutex mutex_;
    std::condition_variable for_faults_;
    std::condition_variable for_background_;
    std::vector<Slot> free_;
    size_t background_wants_ = 0; // free slots that a waiting background copy waits for
    bool closed_ = false;
};

} // namespace hotsnap::memory
#endif
