// SPDX-License-Identifier: GPL-2.0-or-later
//
// Limits the rate of the background copy (not of pages saved at write faults: a guest never waits
// for it).
#ifndef HOTSNAP_SAVE_RATE_LIMIT_H
#define HOTSNAP_SAVE_RATE_LIMIT_H

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace hotsnap::memory {

// A token bucket that may go into debt: spend first, then wait until the debt is paid. Pure: time
// comes from the caller (nanoseconds, never falling). Holds at most a tenth of a second's tokens.
class TokenBucket {
  public:
    // Bytes a second; 0: no limit.
    TokenBucket(uint64_t rate, uint64_t now_ns) : rate_(rate), refilled_ns_(now_ns) {}

    void set_rate(uint64_t rate, uint64_t now_ns);
    void spend(uint64_t bytes, uint64_t now_ns);

    // How long until there is no debt; 0: go on.
    uint64_t wait_ns(uint64_t now_ns);

    uint64_t rate() const { return rate_; }

  private:
    void refill(uint64_t now_ns);

    uint64_t rate_;
    uint64_t refilled_ns_;
    double balance_ = 0; // bytes
};

// The bucket on the real clock. Any thread.
class RateLimit {
  public:
    explicit RateLimit(uint64_t rate);

    void set_rate(uint64_t rate);
    uint64_t rate() const;

    void spend(uint64_t bytes);

    // Waits until the debt is paid, or cancel() was called.
    void wait();
    void cancel();

  private:
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    TokenBucket bucket_;
    bool cancelled_ = false;
};

} // namespace hotsnap::memory
#endif
