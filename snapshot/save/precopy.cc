// SPDX-License-Identifier: GPL-2.0-or-later
#include "save/precopy.h"

#include "base/clock.h"
#include "os/thread.h"

#include <algorithm>
#include <chrono>

namespace hotsnap::memory {

namespace {

// Between rounds, once there is a verdict. In it, rounds cost the guest faults and the storage
// bandwidth, so they take a tenth of the time at most.
constexpr uint64_t least_interval_ns = 20'000'000;
constexpr uint64_t most_interval_ns = 1'000'000'000;
constexpr uint64_t interval_rounds = 9;

} // namespace

void reopen(PageLedger &ledger, const std::vector<PageRun> &runs) {
    for (const PageRun &run : runs) {
        ledger.reopen(run.number(), run.count);
    }
}

Precopy::Precopy(DirtySource &source, PageLedger &ledger, Copier &copier, ImageWriter &writer,
                 std::function<void(const std::string &)> on_error)
    : source_(source), ledger_(ledger), copier_(copier), writer_(writer),
      on_error_(std::move(on_error)) {}

Precopy::~Precopy() {
    stop();
    if (thread_.joinable()) {
        thread_.join();
    }
}

bool Precopy::run_to_verdict() {
    thread_ = spawn("hs-precopy", [this] { run(); });
    std::unique_lock lock(mutex_);
    changed_.wait(lock,
                  [this] { return over_ || convergence_.verdict() != Convergence::Verdict::open; });
    return !ending_ && !over_;
}

void Precopy::end() {
    stop();
    if (thread_.joinable()) {
        thread_.join();
    }
    writer_.drain();
}

void Precopy::stop() {
    {
        const std::lock_guard lock(mutex_);
        ending_ = true;
    }
    changed_.notify_all();
}

Precopy::Figures Precopy::figures() const {
    const std::lock_guard lock(mutex_);
    return figures_;
}

void Precopy::run() {
    try {
        begin_ns_ = now_ns();
        if (source_.begin()) {
            while (round() && pause()) {
            }
        }
    } catch (const std::exception &error) {
        on_error_(error.what());
    }
    {
        const std::lock_guard lock(mutex_);
        over_ = true;
    }
    changed_.notify_all();
}

// False when ending.
bool Precopy::round() {
    const uint64_t begin = now_ns();
    const uint64_t before = copier_.data_pages();
    if (!copier_.round(ending_) || !writer_.drain()) {
        return false;
    }
    const uint64_t copied = copier_.data_pages() - before;
    reopen(ledger_, source_.take());
    round_ns_ = now_ns() - begin;
    const uint64_t written = ledger_.pages() - ledger_.saved_pages();
    {
        const std::lock_guard lock(mutex_);
        const bool open = convergence_.verdict() == Convergence::Verdict::open;
        const Convergence::Verdict verdict = convergence_.round(copied, round_ns_, written);
        figures_.rounds++;
        figures_.pages += copied;
        if (open) {
            figures_.us = ns_to_us(now_ns() - begin_ns_);
            figures_.written = written;
            figures_.converged = verdict == Convergence::Verdict::converged;
        }
    }
    changed_.notify_all();
    return true;
}

// False when ending.
bool Precopy::pause() {
    std::unique_lock lock(mutex_);
    if (convergence_.verdict() != Convergence::Verdict::open) {
        const uint64_t interval =
            std::clamp(round_ns_ * interval_rounds, least_interval_ns, most_interval_ns);
        changed_.wait_for(lock, std::chrono::nanoseconds(interval),
                          [this] { return ending_.load(); });
    }
    return !ending_;
}

} // namespace hotsnap::memory
