// SPDX-License-Identifier: GPL-2.0-or-later
//
// The thread that takes from KVM's ring the pages that KVM saved itself, and saves them here.
#ifndef HOTSNAP_SAVE_RING_SERVICE_H
#define HOTSNAP_SAVE_RING_SERVICE_H

#include "save/page_saver.h"
#include "trap/kvm_trap.h"

#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace hotsnap::memory {

class RingService {
  public:
    // `on_error` is called at most once, from the thread, with no lock held.
    RingService(const GuestMemory &memory, KvmTrap &trap, const SaveParts &parts,
                std::function<void(const std::string &)> on_error);
    ~RingService();

    void start();
    // Joins the thread. It may be waiting for a staging slot: close the pool before, or keep the
    // writer working.
    void stop();

    // When this returns, every page that was Saved before is with the writer.
    void quiesce();

    uint64_t full_waits() const { return saver_.full_waits(); }

  private:
    void run();
    bool take();

    const GuestMemory &memory_;
    KvmTrap &trap_;
    std::function<void(const std::string &)> on_error_;
    PageSaver saver_;
    std::mutex taking_; // held from saving a page until it is with the writer
    std::atomic<bool> stopping_{false};
    std::thread thread_;
};

} // namespace hotsnap::memory
#endif
