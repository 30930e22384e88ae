// SPDX-License-Identifier: GPL-2.0-or-later
//
// Background copy: walks all memory after the cut and saves the pages that no write fault has saved
// yet, at the pace that Pace allows. With a deadline the memory is surveyed first: the plan needs
// to know how much of it is data.
//
// Before the cut it may go round any number of times (precopy.h). Then pages stay protected, and
// are released by the walk after the cut.
#ifndef HOTSNAP_SAVE_COPIER_H
#define HOTSNAP_SAVE_COPIER_H

#include "save/pace.h"
#include "save/page_saver.h"
#include "save/survey.h"

#include <atomic>
#include <mutex>

namespace hotsnap::memory {

class Copier {
  public:
    Copier(const GuestMemory &memory, const SaveParts &parts, Pace &pace)
        : memory_(memory), parts_(parts), pace_(pace), survey_(memory, parts.ledger, parts.reader),
          saver_(parts, StagingPool::User::background) {}

    // Before run(): saves once what is unsaved, and leaves it protected. The deadline does not
    // matter. Nothing is staged any more when this returns; true when all memory was walked, false
    // after stop(), or soon after `ending` was set. Throws as run().
    bool round(const std::atomic<bool> &ending);

    // Returns when every page is saved and the deadline is reached, or after stop(). Returns the
    // instant. Throws when a page cannot be read or a protection cannot be removed.
    uint64_t run();

    // So far, with data. For the thread of round().
    uint64_t data_pages() const { return saver_.tally().data; }

    // Makes run() return soon; after stop(), run() touches no guest memory any more. The pool must
    // be closed and the pace cancelled before. Any thread but run()'s.
    void stop();

  private:
    bool copy_block(const MemoryBlock &block);
    bool survey_memory();
    uint64_t whole_chunk_at(const MemoryBlock &block, uint64_t first) const;
    bool any_unsaved(const MemoryBlock &block, uint64_t first, uint64_t count) const;
    PageRun chunk_at(const MemoryBlock &block, uint64_t first, uint64_t pages) const;
    bool release(const PageRun &chunk);
    bool copy(const PageRun &chunk, Manner manner);

    const GuestMemory &memory_;
    SaveParts parts_;
    Pace &pace_;
    Survey survey_;
    PageSaver saver_;
    bool rounds_ = false; // there were some: saved pages may be protected
    std::atomic<bool> stopping_{false};
    std::mutex copying_; // held while guest memory is touched
};

} // namespace hotsnap::memory
#endif
