// SPDX-License-Identifier: GPL-2.0-or-later
//
// Arming: gets all memory protected without an O(RAM) pause. A thread protects everything in
// slices while the VM runs. Pages that the VM writes meanwhile are noted (fault_service.h, tracking
// mode) and protected again, pass by pass. A pass over n runs usually takes less time than the VM
// needs to write to n more, since each of those costs it a fault, so passes shrink until little is
// left. Then the thread keeps it so until stop(). finish() protects the small rest, in the pause.
//
// Where faults are as fast as passes (many vCPUs, a busy host) passes would not shrink by
// themselves. So while a pass over n runs is under way, no more than n/2 new ones are let in
// (DirtyList's limit). A thread that then writes to yet another protected page waits for the pass,
// and all others run on. In the armed state the limit is fixed; it bounds the cost of the cut.
//
// Why everything is protected after finish(), with no page written before the cut forgotten. At
// any time each page is (a) protected, or (b) not yet reached by the first pass, or
// (c) in the hands of the fault thread, or (d) in the dirty list, or (e) taken from the list by a
// running pass. The fault thread removes a protection first and adds to the list afterwards; the
// other way round a pass could take and protect the page in between, and then it would be
// unprotected and in no list. A pass protects after taking, so a write that faults during the pass
// is noted anew. At the cut: stop() ends the running pass and puts back the runs not reached yet,
// so (e) is empty; arm had finished the first pass, so (b) is empty; the caller holds the fault
// thread quiet, with no fault in its hands, so (c) is empty. finish() protects all of (d). No
// write can come in between: the VM is paused. Were there one all the same, it would either fault,
// and be served as the first write after the cut, or go to a page of (d) before finish() reaches
// it, and so be part of the snapshot.
//
// Pages may have been saved before the cut (precopy.h). `on_written` then forgets what was saved of
// the pages in the list. Each taking from the list is followed by it, after the protection: a write
// that comes in between would else be in no list, nor forgotten. A pass does both under one lock
// with stop(), so at the cut no pass has taken pages that it has not forgotten yet.
#ifndef HOTSNAP_SAVE_ARMING_H
#define HOTSNAP_SAVE_ARMING_H

#include "guest/dirty_list.h"
#include "guest/dirty_source.h"
#include "os/inheriting_mutex.h"
#include "trap/write_trap.h"

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace hotsnap::memory {

class Arming final : public DirtySource {
  public:
    using OnWritten = std::function<void(const std::vector<PageRun> &)>;

    // `on_error` is called at most once, from the thread, with no lock held. `on_written` may be
    // empty.
    Arming(const GuestMemory &memory, WriteTrap &trap, DirtyList &dirty, OnWritten on_written,
           std::function<void(const std::string &)> on_error);
    ~Arming() override;

    // As a source of dirty pages, before start(): the first pass, and one pass more each time. It
    // does not call on_written.
    bool begin() override;
    std::vector<PageRun> take() override;

    // Begins with the first pass, unless begin() has made it.
    void start();

    // Waits until the first pass is done and either little is left or `max_us` are over. False
    // when stopped meanwhile.
    bool wait_converged(uint64_t max_us);

    // Ends the thread's work: when this returns it protects nothing more. Any thread, any number
    // of times; waits for one ioctl at most.
    void stop();

    // After stop(), with the fault thread quiet: protects the dirty runs; returns how many pages
    // these were.
    uint64_t finish();

    uint64_t passes() const { return passes_.load(std::memory_order_relaxed); }
    uint64_t converge_us() const { return converge_us_.load(std::memory_order_relaxed); }

  private:
    void run();
    void first_pass();
    void pass();
    std::vector<PageRun> take_and_protect();
    bool prepare_and_protect(const PageRun &run);

    const GuestMemory &memory_;
    WriteTrap &trap_;
    DirtyList &dirty_;
    OnWritten on_written_;
    std::function<void(const std::string &)> on_error_;

    std::atomic<bool> stopping_{false};
    InheritingMutex working_; // held while protecting
    std::mutex state_mutex_;
    std::condition_variable state_changed_;
    bool first_pass_done_ = false;
    bool converged_ = false;
    std::atomic<uint64_t> passes_{0};
    std::atomic<uint64_t> converge_us_{0};
    std::thread thread_;
};

} // namespace hotsnap::memory
#endif
