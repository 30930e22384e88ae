// SPDX-License-Identifier: GPL-2.0-or-later
#include "save/rate_limit.h"

#include "base/clock.h"

#include <algorithm>
#include <chrono>

namespace hotsnap::memory {

void TokenBucket::refill(uint64_t now_ns) {
    const double rate = static_cast<double>(rate_);
    const double elapsed = static_cast<double>(now_ns - refilled_ns_) / 1e9;
    balance_ = std::min(balance_ + rate * elapsed, rate / 10);
    refilled_ns_ = now_ns;
}

void TokenBucket::set_rate(uint64_t rate, uint64_t now_ns) {
    refill(now_ns);
    rate_ = rate;
    balance_ = std::min(balance_, static_cast<double>(rate) / 10);
}

void TokenBucket::spend(uint64_t bytes, uint64_t now_ns) {
    refill(now_ns);
    balance_ = rate_ == 0 ? 0 : balance_ - static_cast<double>(bytes);
}

uint64_t TokenBucket::wait_ns(uint64_t now_ns) {
    refill(now_ns);
    if (rate_ == 0 || balance_ >= 0) {
        return 0;
    }
    return static_cast<uint64_t>(-balance_ / static_cast<double>(rate_) * 1e9) + 1;
}

RateLimit::RateLimit(uint64_t rate) : bucket_(rate, now_ns()) {}

void RateLimit::set_rate(uint64_t rate) {
    {
        const std::lock_guard lock(mutex_);
        bucket_.set_rate(rate, now_ns());
    }
    changed_.notify_all();
}

uint64_t RateLimit::rate() const {
    const std::lock_guard lock(mutex_);
    return bucket_.rate();
}

void RateLimit::spend(uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    bucket_.spend(bytes, now_ns());
}

void RateLimit::wait() {
    std::unique_lock lock(mutex_);
    while (!cancelled_) {
        const uint64_t wait = bucket_.wait_ns(now_ns());
        if (wait == 0) {
            return;
        }
        changed_.wait_for(lock, std::chrono::nanoseconds(wait));
    }
}

void RateLimit::cancel() {
    {
        const std::lock_guard lock(mutex_);
        cancelled_ = true;
    }
    changed_.notify_all();
}

} // namespace hotsnap::memory
