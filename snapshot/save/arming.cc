// SPDX-License-Identifier: GPL-2.0-or-later
#include "save/arming.h"

#include "base/clock.h"
#include "os/thread.h"

#include <algorithm>
#include <chrono>

namespace hotsnap::memory {

namespace {

// The range of one ioctl, which holds mmap_lock meanwhile: about 0.3 ms on 4 KiB pages.
constexpr uint64_t slice_bytes = 16 << 20;
constexpr uint64_t most_pages = slice_bytes / page_bytes;

// Runs left when the state counts as converged.
constexpr size_t converged_runs = 128;

// In the armed state a pass is made when there are more than grown_runs, but only every few
// milliseconds: an armed VM that keeps writing the same pages should not fault on each of them all
// the time. There are never more than most_runs, give or take the faults read at once. At about
// 2.5 us a run the cut costs at most 1.5 ms.
constexpr size_t grown_runs = 256;
constexpr size_t most_runs = 512;
constexpr auto least_interval = std::chrono::milliseconds(5);

// Protecting a page that is protected already costs a fraction of another ioctl.
constexpr uint64_t joined_gap = 16;

} // namespace

Arming::Arming(const GuestMemory &memory, WriteTrap &trap, DirtyList &dirty, OnWritten on_written,
               std::function<void(const std::string &)> on_error)
    : memory_(memory), trap_(trap), dirty_(dirty), on_written_(std::move(on_written)),
      on_error_(std::move(on_error)) {}

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
        if (passes_ == 0) {
            first_pass();
        }
        for (bool converged = false; !stopping_;) {
            const size_t runs = dirty_.size();
            if (!converged && runs <= converged_runs) {
                converged = true;
                converge_us_ = ns_to_us(now_ns() - begin);
                {
                    const std::lock_guard lock(state_mutex_);
                    converged_ = true;
                }
                state_changed_.notify_all();
            }
            dirty_.set_limit(std::max(converged ? most_runs : converged_runs / 2, runs / 2));
            if (converged) {
                dirty_.wait_above(grown_runs);
            }
            pass();
            if (converged) {
                dirty_.wait_above(most_runs - grown_runs / 2, least_interval);
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

void Arming::pass() {
    // Held until the runs that were not reached are in the list again: stop() must not return in
    // between. Nothing is taken after stop(): finish() would miss it.
    const std::lock_guard lock(working_);
    if (stopping_) {
        return;
    }
    const std::vector<PageRun> taken = take_and_protect();
    if (on_written_) {
        on_written_(taken); // also of those that were not reached: they are in the list again
    }
}

// Returns what was in the list.
std::vector<PageRun> Arming::take_and_protect() {
    std::vector<PageRun> taken = dirty_.take();
    uint64_t pages = 0;
    const std::vector<PageRun> runs = coalesce(taken, joined_gap, most_pages, pages);
    size_t done = 0;
    while (done < runs.size() && !stopping_) {
        trap_.arm(runs[done++]);
    }
    dirty_.add({runs.begin() + static_cast<ptrdiff_t>(done), runs.end()});
    passes_++;
    return taken;
}

bool Arming::begin() {
    first_pass();
    return !stopping_;
}

std::vector<PageRun> Arming::take() {
    const std::lock_guard lock(working_);
    return stopping_ ? std::vector<PageRun>() : take_and_protect();
}

bool Arming::wait_converged(uint64_t max_us) {
    constexpr uint64_t hour_us = 3'600'000'000;
    const auto deadline =
        std::chrono::steady_clock::now() + std::chrono::microseconds(std::min(max_us, hour_us));
    std::unique_lock lock(state_mutex_);
    // The end of the first pass is waited for in any case: without it the cut would be O(RAM).
    state_changed_.wait(lock, [this] { return stopping_ || first_pass_done_; });
    state_changed_.wait_until(lock, deadline, [this] { return stopping_ || converged_; });
    return !stopping_;
}

void Arming::stop() {
    stopping_ = true;
    dirty_.stop();
    {
        // Waiters are either before their check of stopping_ or asleep.
        const std::lock_guard lock(state_mutex_);
    }
    state_changed_.notify_all();
    const std::lock_guard lock(working_);
}

uint64_t Arming::finish() {
    uint64_t pages = 0;
    const std::vector<PageRun> taken = dirty_.take();
    for (const PageRun &run : coalesce(taken, joined_gap, most_pages, pages)) {
        trap_.arm(run);
    }
    if (on_written_) {
        on_written_(taken);
    }
    return pages;
}

} // namespace hotsnap::memory
