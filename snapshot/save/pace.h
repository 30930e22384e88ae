// SPDX-License-Identifier: GPL-2.0-or-later
//
// When the background copy may go on: the bandwidth (token_bucket.h) and the deadline (pacer.h) on
// the real clock.
//
// One thread copies and calls wait, done and hold. Others change the limits, which a wait heeds at
// once, or read. All state is under one mutex, which is held while nothing is waited for.
#ifndef HOTSNAP_SAVE_PACE_H
#define HOTSNAP_SAVE_PACE_H

#include "os/thread.h"
#include "save/pacer.h"
#include "save/token_bucket.h"

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>

namespace hotsnap::memory {

class Pace {
  public:
    // Bytes a second, 0: no limit; and the pages that are held back until the deadline.
    Pace(uint64_t bandwidth, uint64_t reserve_pages);

    // Any thread. A deadline (CLOCK_MONOTONIC, ns; 0: none) that comes after the end of hold() has
    // no effect.
    void set_bandwidth(uint64_t bandwidth);
    uint64_t bandwidth() const;
    void set_deadline(uint64_t deadline_ns);
    uint64_t deadline() const;
    uint64_t expected_end() const; // 0: not known yet
    void cancel();                 // ends all waits, now and later

    // Waits until the next chunk is due, at the end with real-time priority; returns how many pages
    // it may have, 0 when cancelled. `left` is asked again and again, by this thread, without the
    // mutex.
    uint64_t wait(const std::function<PagesLeft()> &left);

    // The same by the bandwidth alone, for a copy before the cut. False when cancelled, or soon
    // after `ending` was set.
    bool wait_for_bandwidth(const std::atomic<bool> &ending);
    void done(const ChunkDone &chunk);

    // Every page is saved: waits for the deadline, whatever that is by then, or until cancelled.
    // Returns the instant of the end.
    uint64_t hold();

  private:
    RateLimit limit(uint64_t now_ns);

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    TokenBucket bucket_;
    Pacer pacer_;
    RealTime real_time_; // of the thread that copies
    bool cancelled_ = false;
    bool ended_ = false;
};

} // namespace hotsnap::memory
#endif
