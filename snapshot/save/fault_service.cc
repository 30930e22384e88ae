// SPDX-License-Identifier: GPL-2.0-or-later
#include "save/fault_service.h"

#include "base/clock.h"
#include "os/thread.h"

#include <algorithm>
#include <array>
#include <csignal>
#include <unistd.h>

namespace hotsnap::memory {

namespace {

constexpr size_t faults_at_once = 64;

// How long to look for the next fault before sleeping. A fault answered by a thread that looks
// costs the guest about a third of one answered by a thread that has to be woken. But looking
// takes a processor, of which a small host has few: it is worth it only while faults come in quick
// succession, so a vain look halves the time and a hit doubles it.
class SpinTime {
  public:
    uint64_t ns() const { return ns_; }
    void hit() { ns_ = std::min<uint64_t>(most_ns, ns_ * 2); }
    void miss() { ns_ = std::max<uint64_t>(least_ns, ns_ / 2); }

  private:
    static constexpr uint64_t most_ns = 40'000;
    static constexpr uint64_t least_ns = 2'000;
    uint64_t ns_ = 10'000;
};

} // namespace

FaultService::Quiet::Quiet(FaultService &service) : service_(service) {
    // While it looks for faults the thread takes and drops the mutex all the time. Without this
    // request it could keep every other thread from getting the mutex.
    service_.quiet_wanted_++;
    service_.answering_.lock();
}

FaultService::Quiet::~Quiet() {
    service_.answering_.unlock();
    service_.quiet_wanted_--;
    service_.quiet_wanted_.notify_one();
}

FaultService::FaultService(const GuestMemory &memory, const SaveParts &parts, DirtyList &dirty,
                           std::vector<int> vcpu_tids, uint64_t cluster_pages,
                           uint64_t tracked_pages,
                           std::function<void(const std::string &)> on_error)
    : memory_(memory), parts_(parts), dirty_(dirty), vcpu_tids_(std::move(vcpu_tids)),
      cluster_pages_(cluster_pages), tracked_pages_(tracked_pages), on_error_(std::move(on_error)),
      saver_(parts, StagingPool::User::fault) {
    std::ranges::sort(vcpu_tids_);
}

FaultService::~FaultService() {
    stop();
}

void FaultService::start() {
    thread_ = spawn("hs-faults", [this] { run(); });
}

void FaultService::stop() {
    stopping_ = true;
    if (thread_.joinable()) {
        parts_.trap.wake();
        thread_.join();
    }
}

void FaultService::run() {
    // Every answer is waited for, also by threads that have real-time priority in the pause, or
    // that the pause waits for. The thread's work is bounded by the size of memory.
    RealTime priority;
    priority.begin();
    ask_for_priority();
    std::array<WriteFault, faults_at_once> faults;
    SpinTime spin;
    uint64_t idle_since = now_ns();
    bool looked = true;
    while (!stopping_) {
        // There is a limit only before the cut. Not under the mutex, since the cut must get that.
        dirty_.wait_room();
        for (int wanted; (wanted = quiet_wanted_) > 0;) {
            quiet_wanted_.wait(wanted);
        }
        size_t count = 0;
        try {
            const std::lock_guard lock(answering_);
            count = parts_.trap.next_faults(faults);
            answer({faults.data(), count});
        } catch (const std::exception &error) {
            // Outside of the lock: this calls back into abort, which asks for quiet.
            on_error_(error.what());
            return;
        }
        if (count > 0) {
            if (looked) {
                spin.hit();
            }
            looked = true;
            idle_since = now_ns();
        } else if (now_ns() - idle_since > spin.ns()) {
            spin.miss();
            looked = false;
            parts_.trap.wait();
            idle_since = now_ns();
        } else {
            relax_cpu();
        }
    }
}

void FaultService::answer(std::span<const WriteFault> faults) {
    if (faults.empty()) {
        return;
    }
    switch (mode_) {
    case Mode::tracking:
        track(faults);
        break;
    case Mode::cow:
        copy_on_write(faults);
        break;
    case Mode::discard:
        release(faults);
        break;
    }
}

// The aligned cluster around a fault; in a huge page, the page. Empty when the fault is not in our
// memory.
PageRun FaultService::cluster_of(const WriteFault &fault, uint64_t pages, uint64_t *page) const {
    const MemoryBlock *block = memory_.block_of_address(fault.address);
    if (block == nullptr) {
        return {};
    }
    *page = (fault.address - reinterpret_cast<uint64_t>(block->host)) / page_bytes;
    return GuestMemory::aligned_run(*block, *page, pages);
}

// Removing a protection wakes all threads that wait for it, even if their faults are still in our
// hands.
bool FaultService::released_just_now(const WriteFault &fault) const {
    return std::ranges::any_of(released_, [&](const PageRun &run) {
        const auto start = reinterpret_cast<uint64_t>(run.host());
        return fault.address >= start && fault.address - start < run.bytes();
    });
}

void FaultService::track(std::span<const WriteFault> faults) {
    released_.clear();
    for (const WriteFault &fault : faults) {
        uint64_t page = 0;
        const PageRun run = cluster_of(fault, tracked_pages_, &page);
        if (run.block == nullptr || released_just_now(fault)) {
            continue;
        }
        // Unprotect first, note later: see arming.h.
        parts_.trap.release(run);
        released_.push_back(run);
    }
    dirty_.add(released_);
    tracked_.fetch_add(faults.size(), std::memory_order_relaxed);
}

void FaultService::copy_on_write(std::span<const WriteFault> faults) {
    released_.clear();
    const uint64_t begin = now_ns();
    for (const WriteFault &fault : faults) {
        if (!released_just_now(fault) && !save_around(fault)) {
            break; // the pool is closed: an abort is on its way and will release everything
        }
        counts_.add(ns_to_us(now_ns() - begin));
    }
    saver_.flush();
}

bool FaultService::save_around(const WriteFault &fault) {
    uint64_t page = 0;
    const PageRun run = cluster_of(fault, cluster_pages_, &page);
    if (run.block == nullptr) {
        return true;
    }
    const uint64_t lead = run.block->first_page + (run.block->by_unit() ? run.first : page);
    if (!parts_.ledger.saved(lead)) {
        std::vector<bool> absent;
        if (run.block->shared && !run.block->by_unit()) {
            // Reading a neighbor that nothing backs would give it memory for good.
            absent.resize(run.count);
            parts_.reader.find_absent(run, absent);
        }
        if (!saver_.save(run, absent, manner_of(fault.tid), {page, 1})) {
            return false;
        }
        parts_.ledger.wait_saved(lead);
    } else {
        saver_.note_access(*run.block, page); // saved before, perhaps before the cut
    }
    if (saver_.release(run)) {
        released_.push_back(run);
    }
    return true;
}

void FaultService::release(std::span<const WriteFault> faults) {
    for (const WriteFault &fault : faults) {
        uint64_t page = 0;
        const PageRun run = cluster_of(fault, cluster_pages_, &page);
        if (run.block != nullptr) {
            parts_.trap.release(run);
        }
    }
}

// KVM may hand a guest's write that faults to a kernel worker (asynchronous page fault), so a
// thread that is not of this process writes for a vCPU. Every other thread of the process is a
// device's.
Manner FaultService::manner_of(int tid) const {
    const bool guest = std::ranges::binary_search(vcpu_tids_, tid) || tgkill(getpid(), tid, 0) != 0;
    return guest ? Manner::guest_write : Manner::dma_write;
}

} // namespace hotsnap::memory
