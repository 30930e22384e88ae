// SPDX-License-Identifier: GPL-2.0-or-later
// The one instant at which the background copies of all members end: a given time after the cut
// (SyncSnap, 2014: every member's snapshot ends at the same time). The initiator keeps it in its
// own clock, and tells each member in the member's clock.
//
// A member that cannot make it says so early, in PROGRESS. Its second report in a row moves the
// instant for all, once: then all end together, later. A member that is late even then ends alone.
//
// Pure: time comes from the caller, in microseconds.
#ifndef HOTSNAP_COORDINATOR_FINISH_H
#define HOTSNAP_COORDINATOR_FINISH_H

#include <cstddef>
#include <cstdint>
#include <vector>

#include "clock_offset.h"

namespace hotsnap::cluster {

class Finish {
  public:
    static constexpr uint64_t most_stretch = 4;

    // 0: no such instant, each copy ends as soon as it can.
    Finish(uint64_t duration_us, size_t members) : duration_us_(duration_us), members_(members) {}

    bool wanted() const { return duration_us_ != 0; }
    uint64_t duration_us() const { return duration_us_; }
    // Another duration, from the cut on; the instant may be moved once more.
    void set_duration(uint64_t duration_us);

    void set_clock(size_t member, ClockOffset offset) { members_[member].clock = offset; }
    const ClockOffset &clock(size_t member) const { return members_[member].clock; }

    // The cut is taken then, or is expected to be.
    void set_cut(uint64_t cut_us) { cut_us_ = cut_us; }
    uint64_t cut_us() const { return cut_us_; }

    // 0: as soon as possible.
    uint64_t due_us() const;                        // our clock
    uint64_t due_of(size_t member) const;           // the member's clock
    uint64_t delay_us() const { return delay_us_; } // by which it was moved

    // The member expects its copy to end then (its clock). Whether it is late, for the second time
    // in a row.
    bool is_late(size_t member, uint64_t expected_us);
    // Moves the instant to the latest expected end of any member, with a little to spare; not to
    // more than most_stretch times the duration, since storage that stalls for a moment makes any
    // estimate grow without bound. False when it has been moved before.
    bool move(uint64_t now_us);

  private:
    struct Member {
        ClockOffset clock;
        uint64_t expected_us = 0; // our clock
        unsigned late = 0;        // reports in a row
    };

    uint64_t latest_us() const; // of all expected ends, our clock; 0: not known

    uint64_t duration_us_;
    uint64_t cut_us_ = 0;
    uint64_t delay_us_ = 0;
    bool moved_ = false;
    std::vector<Member> members_;
};

} // namespace hotsnap::cluster
#endif
