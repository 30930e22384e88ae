// SPDX-License-Identifier: GPL-2.0-or-later
#include "save/token_bucket.h"

#include <algorithm>

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

} // namespace hotsnap::memory
