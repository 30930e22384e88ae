// SPDX-License-Identifier: GPL-2.0-or-later
#include "save/pace.h"

#include "base/clock.h"
#include "guest/guest_memory.h"

#include <algorithm>
#include <chrono>

namespace hotsnap::memory {

namespace {

// A wait is planned anew this often, since faults save pages meanwhile.
constexpr uint64_t look_again_ns = 20'000'000;

constexpr uint64_t longest_wait_ns = 3'600'000'000'000; // what the clock can add to its time

} // namespace

Pace::Pace(uint64_t bandwidth, uint64_t reserve_pages)
    : bucket_(bandwidth, now_ns()), pacer_(reserve_pages) {}

void Pace::set_bandwidth(uint64_t bandwidth) {
    {
        const std::lock_guard lock(mutex_);
        bucket_.set_rate(bandwidth, now_ns());
    }
    changed_.notify_all();
}

uint64_t Pace::bandwidth() const {
    const std::lock_guard lock(mutex_);
    return bucket_.rate();
}

void Pace::set_deadline(uint64_t deadline_ns) {
    {
        const std::lock_guard lock(mutex_);
        if (ended_) {
            return;
        }
        pacer_.set_deadline(deadline_ns, now_ns());
    }
    changed_.notify_all();
}

uint64_t Pace::deadline() const {
    const std::lock_guard lock(mutex_);
    return pacer_.deadline();
}

uint64_t Pace::expected_end() const {
    const std::lock_guard lock(mutex_);
    return pacer_.expected_end(now_ns());
}

void Pace::cancel() {
    {
        const std::lock_guard lock(mutex_);
        cancelled_ = true;
    }
    changed_.notify_all();
}

RateLimit Pace::limit(uint64_t now_ns) {
    const uint64_t rate = bucket_.rate();
    const double per_page = rate == 0 ? 0 : page_bytes * 1e9 / static_cast<double>(rate);
    return {per_page, bucket_.wait_ns(now_ns)};
}

uint64_t Pace::wait(const std::function<PagesLeft()> &left) {
    for (;;) {
        const PagesLeft pages_left = left(); // takes time in a large guest
        std::unique_lock lock(mutex_);
        if (cancelled_) {
            return 0;
        }
        const uint64_t now = now_ns();
        const RateLimit limit = this->limit(now);
        const Pacer::Step step = pacer_.next(pages_left, limit, now);
        // A busy host may wake a thread tens of milliseconds late.
        step.landing ? real_time_.begin() : real_time_.end();
        const uint64_t wait = std::max(step.wait_ns, limit.owed_ns);
        if (wait == 0) {
            return step.pages;
        }
        changed_.wait_for(lock, std::chrono::nanoseconds(std::min(wait, look_again_ns)));
    }
}

bool Pace::wait_for_bandwidth(const std::atomic<bool> &ending) {
    std::unique_lock lock(mutex_);
    while (!cancelled_ && !ending) {
        const uint64_t owed = bucket_.wait_ns(now_ns());
        if (owed == 0) {
            return true;
        }
        changed_.wait_for(lock, std::chrono::nanoseconds(std::min(owed, look_again_ns)));
    }
    return false;
}

void Pace::done(const ChunkDone &chunk) {
    const std::lock_guard lock(mutex_);
    const uint64_t now = now_ns();
    bucket_.spend(chunk.data * page_bytes, now);
    pacer_.done(chunk, now);
}

uint64_t Pace::hold() {
    std::unique_lock lock(mutex_);
    uint64_t now = now_ns();
    for (; !cancelled_ && now < pacer_.deadline(); now = now_ns()) {
        real_time_.begin();
        const uint64_t wait = std::min(pacer_.deadline() - now, longest_wait_ns);
        changed_.wait_for(lock, std::chrono::nanoseconds(wait));
    }
    ended_ = true;
    real_time_.end(); // may cost this thread the processor
    return now;
}

} // namespace hotsnap::memory
