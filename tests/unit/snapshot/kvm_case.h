// SPDX-License-Identifier: GPL-2.0-or-later
//
// A VM under a fake KVM: vCPUs, devices and KVM itself write, and a snapshot of engine "kvm" is
// taken.
#pragma once

#include "fake_kvm.h"
#include "guest.h"
#include "mapped_ram.h"
#include "save/session.h"
#include "trap/kvm_trap.h"

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace hotsnap::memory::test {

// Counts every copy, whichever side was first: the negative control of the protocol of confirm().
class Unconfirmed : public KvmTrap {
  public:
    using KvmTrap::KvmTrap;
    GroupMask confirm(const PageRun &group, GroupMask mask) override {
        KvmTrap::confirm(group, mask);
        return mask;
    }
};

class KvmCase {
  public:
    explicit KvmCase(std::vector<const Region *> regions, uint32_t ring_entries = 1024);
    ~KvmCase();

    SnapshotOptions options;
    uint32_t arm_flags = 0;
    bool confirms = true;
    std::function<void(MemoryBlock &)> adjust; // changes a block that create() passes

    FakeKvm kvm;
    Folder folder;

    void create();
    void cut();
    void start() { session_->start({}); }
    std::string wait(); // for on_finished; returns its error
    Session &session() { return *session_; }
    hs_snapshot_stats stats() const;
    LoadedImage load() const;
    void free() { session_.reset(); }

    // Start threads that write until destroyed, as vCPUs, devices (some pages at once) or KVM do.
    void run_vcpus(int threads);
    void run_devices(int threads);
    void run_kvm(int threads);
    void pause();
    void resume() { paused_ = false; }
    void stop_actors();

  private:
    std::byte *somewhere(uint64_t &state) const;
    void run(int threads, std::function<void(std::byte *, uint64_t)> write);

    std::vector<const Region *> regions_;
    std::unique_ptr<Session> session_;
    std::atomic<Session *> told_{nullptr};
    std::mutex mutex_;
    std::condition_variable finished_;
    std::optional<std::string> result_;

    std::atomic<bool> stopping_{false};
    std::atomic<bool> paused_{false};
    std::atomic<size_t> parked_{0};
    std::vector<std::thread> actors_;
};

} // namespace hotsnap::memory::test
