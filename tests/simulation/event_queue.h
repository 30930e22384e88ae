// SPDX-License-Identifier: GPL-2.0-or-later
// The simulated clock and its events. Events of one instant happen in the order of their creation.
#ifndef HOTSNAP_SIM_EVENT_QUEUE_H
#define HOTSNAP_SIM_EVENT_QUEUE_H

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

namespace hotsnap::sim {

class EventQueue {
  public:
    using Action = std::function<void()>;

    uint64_t now_us() const { return now_us_; }
    void at(uint64_t time_us, Action action) {
        events_.push_back({std::max(time_us, now_us_), sequence_++, std::move(action)});
        std::push_heap(events_.begin(), events_.end());
    }
    void after(uint64_t delay_us, Action action) { at(now_us_ + delay_us, std::move(action)); }

    // Runs until `end_us`, or until nothing is left.
    void run_until(uint64_t end_us) {
        while (!events_.empty() && events_.front().time_us <= end_us) {
            std::pop_heap(events_.begin(), events_.end());
            const Event event = std::move(events_.back());
            events_.pop_back();
            now_us_ = event.time_us;
            event.action();
        }
        now_us_ = std::max(now_us_, end_us);
    }

  private:
    struct Event {
        uint64_t time_us;
        uint64_t sequence;
        Action action;

        bool operator<(const Event &other) const { // the heap's top is the largest
            return time_us != other.time_us ? time_us > other.time_us : sequence > other.sequence;
        }
    };

    std::vector<Event> events_; // a heap
    uint64_t now_us_ = 1'000'000;
    uint64_t sequence_ = 0;
};

} // namespace hotsnap::sim
#endif
