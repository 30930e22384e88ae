// SPDX-License-Identifier: GPL-2.0-or-later
//
// Background copy: walks all memory after the cut and saves the pages that no write fault has saved
// yet.
#ifndef HOTSNAP_SAVE_COPIER_H
#define HOTSNAP_SAVE_COPIER_H

#include "save/page_saver.h"
#include "save/rate_limit.h"

#include <atomic>
#include <mutex>

namespace hotsnap::memory {

class Copier {
  public:
    Copier(const GuestMemory &memory, const SaveParts &parts, RateLimit &limit)
        : memory_(memory), parts_(parts), limit_(limit),
          saver_(parts, StagingPool::User::background) {}

    // Returns when every page is saved, or after stop(). Throws when a page cannot be read or a
    // protection cannot be removed.
    void run();

    // Makes run() return soon; after stop(), run() touches no guest memory any more. The pool must
    // be closed and the limit cancelled before. Any thread but run()'s.
    void stop();

  private:
    uint64_t chunk_at(const MemoryBlock &block, uint64_t first) const;
    void copy(const PageRun &chunk);

    const GuestMemory &memory_;
    SaveParts parts_;
    RateLimit &limit_;
    PageSaver saver_;
    std::atomic<bool> stopping_{false};
    std::mutex copying_; // held while guest memory is touched
};

} // namespace hotsnap::memory
#endif
