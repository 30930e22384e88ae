// SPDX-License-Identifier: GPL-2.0-or-later
//
// The thread that answers write faults. The answer depends on the mode:
//
//   tracking  before the cut: the page and its neighbors are unprotected and noted as dirty
//   cow       after the cut: the original is saved, with its unsaved neighbors, then unprotected
//   discard   after a failure or an abort: unprotected
//
// A fault is answered from staging; it waits for storage only when no slot is free, and part of
// the slots is kept for faults.
//
// Quiet: the thread takes faults from the trap and answers them under one mutex. The holder of a
// Quiet knows that the thread has no fault in hand and touches no guest memory, without waking it
// or waiting for it to wake up. This makes the cut cheap.
#ifndef HOTSNAP_SAVE_FAULT_SERVICE_H
#define HOTSNAP_SAVE_FAULT_SERVICE_H

#include "guest/dirty_list.h"
#include "save/fault_counts.h"
#include "save/page_saver.h"
#include "trap/write_trap.h"

#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace hotsnap::memory {

class FaultService {
  public:
    enum class Mode { tracking, cow, discard };

    class Quiet {
      public:
        explicit Quiet(FaultService &service);
        ~Quiet();
        Quiet(const Quiet &) = delete;
        Quiet &operator=(const Quiet &) = delete;

        void set_mode(Mode mode) { service_.mode_ = mode; }

      private:
        FaultService &service_;
    };

    // `on_error` is called at most once, from the thread, with no lock held.
    // The clusters around a fault: of pages that are saved, and of those that are only tracked.
    FaultService(const GuestMemory &memory, const SaveParts &parts, DirtyList &dirty,
                 std::vector<int> vcpu_tids, uint64_t cluster_pages, uint64_t tracked_pages,
                 std::function<void(const std::string &)> on_error);
    ~FaultService();

    void start();
    // Joins the thread. The trap must be detached before, or faults would hang.
    void stop();

    const FaultCounts &counts() const { return counts_; }
    uint64_t tracked() const { return tracked_; } // faults before the cut
    uint64_t full_waits() const { return saver_.full_waits(); }

  private:
    void run();
    void answer(std::span<const WriteFault> faults);
    void track(std::span<const WriteFault> faults);
    void copy_on_write(std::span<const WriteFault> faults);
    bool save_around(const WriteFault &fault);
    void release(std::span<const WriteFault> faults);
    Manner manner_of(int tid) const;
    PageRun cluster_of(const WriteFault &fault, uint64_t pages, uint64_t *page) const;
    bool released_just_now(const WriteFault &fault) const;

    const GuestMemory &memory_;
    SaveParts parts_;
    DirtyList &dirty_;
    std::vector<int> vcpu_tids_; // sorted
    uint64_t cluster_pages_;
    uint64_t tracked_pages_;
    std::function<void(const std::string &)> on_error_;
    PageSaver saver_;
    FaultCounts counts_;
    std::atomic<uint64_t> tracked_{0};

    std::atomic<bool> stopping_{false};
    std::atomic<int> quiet_wanted_{0};
    std::mutex answering_;
    Mode mode_ = Mode::tracking;    // under answering_
    std::vector<PageRun> released_; // in this batch; under answering_
    std::thread thread_;
};

} // namespace hotsnap::memory
#endif
