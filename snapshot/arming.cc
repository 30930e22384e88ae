// SPDX-License-Identifier: GPL-2.0-or-later
#include "arming.h"

#include "clock.h"
#include "thread.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <span>

namespace hotsnap {

namespace {

// Of one ioctl, which holds mmap_lock meanwhile: about 0.3 ms on 4 KiB pages.
constexpr uint64_t slice_bytes = 16 << 20;
constexpr uint64_t most_pages = slice_bytes / page_bytes;

// Runs left when the state counts as converged. At about 2.5 us a run this is what the cut costs.
constexpr size_t converged_runs = 128;

// Growth at which the converged state is restored, and how often at most: an armed VM that keeps
// writing the same pages should not fault on each of them all the time.
constexpr size_t grown_runs = 256;
constexpr auto least_interval = std::chrono::milliseconds(5);

// How long faults are held back at a time when passes do not shrink.
constexpr uint64_t braked_ns = 2'000'000;

// Protecting a page that is protected costs a fraction of another ioctl.
constexpr uint64_t joined_gap = 16;

} // namespace

Arming::Arming(const GuestMemory &memory, WriteTrap &trap, DirtyList &dirty, FaultService &faults,
               std::function<void(const std::string &)> on_error)
    : memory_(memory), trap_(trap), dirty_(dirty), faults_(faults), on_error_(std::move(on_error)) {
}

Arming::~Arming() {
    stop();
    if (thread_.joinable()) {
        thread_.join();
    }
}

void Arming::start() {
    thread_ = spawn("hs-arming", [this] { run(); });
}

void Arming::run() {
    try {
        const uint64_t begin = now_ns();
        first_pass();
        bool converged = false;
        bool brake = false;
        while (!stopping_) {
            const size_t before = dirty_.size();
            if (!converged && before <= converged_runs) {
                converged = true;
                converge_us_ = ns_to_us(now_ns() - begin);
                {
                    const std::lock_guard lock(state_mutex_);
                    converged_ = true;
                }
                state_changed_.notify_all();
            }
            if (converged) {
                dirty_.wait_above(grown_runs, [this] { return stopping_.load(); });
            }
            pass(brake);
            const size_t after = dirty_.size();
            brake = after > converged_runs && after > before / 2;
            if (converged && !brake) {
                std::unique_lock lock(state_mutex_);
                state_changed_.wait_for(lock, least_interval, [this] { return stopping_.load(); });
            }
        }
    } catch (const std::exception &error) {
        on_error_(error.what());
    }
}

// False when stopping; then nothing was done.
bool Arming::prepare_and_protect(const PageRun &run) {
    const std::lock_guard lock(working_);
    if (stopping_) {
        return false;
    }
    trap_.prepare(run);
    trap_.arm(run);
    return true;
}

void Arming::first_pass() {
    for (const MemoryBlock &block : memory_.blocks()) {
        const uint64_t slice = std::max(slice_bytes, block.page_size) / page_bytes;
        for (uint64_t first = 0; first < block.pages(); first += slice) {
            if (!prepare_and_protect({&block, first, std::min(slice, block.pages() - first)})) {
                return;
            }
        }
    }
    passes_++;
    {
        const std::lock_guard lock(state_mutex_);
        first_pass_done_ = true;
    }
    state_changed_.notify_all();
}

void Arming::pass(bool brake) {
    // Held until what was not reached is in the list again: stop() must not see it in between.
    const std::lock_guard lock(working_);
    uint64_t pages = 0;
    const std::vector<PageRun> runs = coalesce(dirty_.take(), joined_gap, most_pages, pages);
    std::span<const PageRun> left(runs);
    while (!left.empty() && !stopping_) {
        std::optional<FaultService::Quiet> quiet;
        if (brake) {
            quiet.emplace(faults_);
        }
        left = left.subspan(protect_for_a_while(left));
    }
    dirty_.add({left.begin(), left.end()});
    passes_++;
}

// Returns how many of the runs it protected, at least one.
size_t Arming::protect_for_a_while(std::span<const PageRun> runs) {
    const uint64_t begin = now_ns();
    size_t done = 0;
    do {
        trap_.arm(runs[done++]);
    } while (done < runs.size() && !stopping_ && now_ns() - begin < braked_ns);
    return done;
}

bool Arming::wait_converged(uint64_t max_us) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::microseconds(max_us);
    std::unique_lock lock(state_mutex_);
    // Without the first pass done the cut would be O(RAM), so that is waited for in any case.
    state_changed_.wait(lock, [this] { return stopping_ || first_pass_done_; });
    state_changed_.wait_until(lock, deadline, [this] { return stopping_ || converged_; });
    return !stopping_;
}

void Arming::stop() {
    stopping_ = true;
    dirty_.notify();
    {
        // Waiters are either before their check of stopping_ or asleep.
        const std::lock_guard lock(state_mutex_);
    }
    state_changed_.notify_all();
    const std::lock_guard lock(working_);
}

uint64_t Arming::finish() {
    uint64_t pages = 0;
    for (const PageRun &run : coalesce(dirty_.take(), joined_gap, most_pages, pages)) {
        trap_.arm(run);
    }
    return pages;
}

} // namespace hotsnap
