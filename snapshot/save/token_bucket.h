// SPDX-License-Identifier: GPL-2.0-or-later
//
// The upper limit of the background copy's rate (not of pages saved at write faults: a guest never
// waits for it).
#ifndef HOTSNAP_SAVE_TOKEN_BUCKET_H
#define HOTSNAP_SAVE_TOKEN_BUCKET_H

#include <cstdint>

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

} // namespace hotsnap::memory
#endif
