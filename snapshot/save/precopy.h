// SPDX-License-Identifier: GPL-2.0-or-later
//
// Mode precopy: memory is copied while the VM runs, before the cut, and what was written meanwhile
// is copied again, round by round (SyncSnap, 2014; the scheme is that of live migration). The cut
// then finds little that is not copied. It does not wait for the rounds to converge: what is left
// is saved after the cut, as in any snapshot.
//
//   begin    the source (dirty_source.h) notes writes from here on
//   round    the copier saves each unsaved page; the writer is drained; what was written meanwhile
//            is taken from the source, and reopened in the ledger
//   ...      until the rounds have converged, or are found hopeless (convergence.h), and further
//            until end(): other members may need longer
//
// Why the image is right. At the end of begin() nothing is saved. By the contract of the source, at
// any later moment each page that is Saved was not written since it was copied, or the source will
// still give it out, and whoever takes from the source reopens what it gives (after this class that
// is Arming, up to its finish() in the pause). After finish() the source has nothing left to give.
// So what is Saved then is as it is at the cut; what is not is protected, and saved by its first
// write or by the copier. A copy that was torn, as the page was written while it was copied, is of
// a page that the source gives out.
//
// Why a page's place in the file ends with its last copy. A round saves a page at most once, since
// only this thread reopens pages then, between the rounds. Each round begins with a drained writer,
// and end() drains it once more: no write of an older copy is under way when a newer one is
// submitted, be it by a round or after the cut.
//
// Writes that the source traps cost the guest a fault each, once for each page and round. So rounds
// are made at intervals once they have converged.
#ifndef HOTSNAP_SAVE_PRECOPY_H
#define HOTSNAP_SAVE_PRECOPY_H

#include "guest/dirty_source.h"
#include "guest/page_ledger.h"
#include "image/image_writer.h"
#include "save/convergence.h"
#include "save/copier.h"

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace hotsnap::memory {

// Forgets what was saved of these pages.
void reopen(PageLedger &ledger, const std::vector<PageRun> &runs);

class Precopy {
  public:
    struct Figures {
        uint64_t rounds = 0;
        uint64_t pages = 0;   // with data, copied in all rounds
        uint64_t us = 0;      // until the verdict
        uint64_t written = 0; // pages, during the round of the verdict
        bool converged = false;
    };

    // `on_error` is called at most once, from the thread, with no lock held.
    Precopy(DirtySource &source, PageLedger &ledger, Copier &copier, ImageWriter &writer,
            std::function<void(const std::string &)> on_error);
    ~Precopy(); // after stop()

    // Returns when there is a verdict. False when stopped meanwhile. Once.
    bool run_to_verdict();

    // Ends the rounds. When this returns nothing is staged, and the writer is drained, unless
    // stopped. Waits for storage. Not beside run_to_verdict().
    void end();

    // For an abort: the rounds end soon. Copier, source and writer must be stopped as well. Any
    // thread.
    void stop();

    Figures figures() const;

  private:
    void run();
    bool round();
    bool pause();

    DirtySource &source_;
    PageLedger &ledger_;
    Copier &copier_;
    ImageWriter &writer_;
    std::function<void(const std::string &)> on_error_;
    uint64_t begin_ns_ = 0;
    uint64_t round_ns_ = 0; // the last one took so long

    std::atomic<bool> ending_{false};
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    Convergence convergence_;
    Figures figures_;
    bool over_ = false; // the thread does nothing more
    std::thread thread_;
};

} // namespace hotsnap::memory
#endif
