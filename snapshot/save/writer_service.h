// SPDX-License-Identifier: GPL-2.0-or-later
//
// Saves pages in the threads that are about to write to them: vCPUs that KVM has sent back, and
// device emulation. For traps with a bitmap (write_trap.h).
//
// Any number of threads at once, without a common lock while they copy: each takes a saver of its
// own from a list. A thread waits for storage only when no staging slot is free, and for another
// thread only while that one copies the very page.
//
// These threads come from outside the library, so this class counts the ones inside: after stop()
// none is inside, and none touches guest memory any more.
#ifndef HOTSNAP_SAVE_WRITER_SERVICE_H
#define HOTSNAP_SAVE_WRITER_SERVICE_H

#include "save/fault_counts.h"
#include "save/page_saver.h"

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace hotsnap::memory {

class WriterService {
  public:
    // `on_error` is called from the threads that write, with no lock held and outside of here.
    WriterService(const GuestMemory &memory, const SaveParts &parts, uint64_t cluster_pages,
                  std::function<void(const std::string &)> on_error);
    WriterService(const WriterService &) = delete;
    WriterService &operator=(const WriterService &) = delete;

    // From the cut on. Does nothing after stop().
    void start();

    // When this returns, no thread is inside, and the saved pages are with the writer. For an abort
    // the pool must be closed before, or this could wait for storage.
    void stop();

    // `size` bytes from `host` on are about to be written: saves the unsaved pages there, with
    // neighbors. When this returns, the bytes may be written. Returns at once before start() and
    // after stop(). False when `host` is not in the snapshot's memory; bytes beyond the end of a
    // block are ignored.
    bool before_write(const void *host, size_t size, Manner manner);

    const FaultCounts &counts() const { return counts_; }
    uint64_t full_waits() const;

  private:
    enum class State { idle, active, stopped };
    class Visit;

    PageSaver *take_saver();
    void put_saver(PageSaver *saver);
    void save_run(PageSaver &saver, const PageRun &run, Manner manner);

    const GuestMemory &memory_;
    SaveParts parts_;
    uint64_t cluster_pages_;
    std::function<void(const std::string &)> on_error_;
    FaultCounts counts_;

    std::atomic<State> state_{State::idle};
    std::atomic<uint32_t> inside_{0};

    mutable std::mutex savers_mutex_;
    std::vector<std::unique_ptr<PageSaver>> savers_;
    std::vector<PageSaver *> free_savers_;
};

} // namespace hotsnap::memory
#endif
