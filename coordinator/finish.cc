// SPDX-License-Identifier: GPL-2.0-or-later
#include "finish.h"

#include <algorithm>
#include <utility>

#include "deadline.h"

namespace hotsnap::cluster {

namespace {

constexpr unsigned enough_reports = 2;
// An estimate that is off by less is no lateness: pages differ, and so does the storage.
constexpr uint64_t least_lateness_us = 20'000;
constexpr uint64_t share_of_duration = 50;
// The later instant shall hold: the estimate is made while the storage is busy.
constexpr uint64_t share_to_spare = 20;

} // namespace

void Finish::set_duration(uint64_t duration_us) {
    duration_us_ = duration_us;
    delay_us_ = 0;
    moved_ = false;
    for (Member &member : members_) {
        member.late = 0;
    }
}

uint64_t Finish::due_us() const {
    return wanted() ? after(after(cut_us_, duration_us_), delay_us_) : 0;
}

uint64_t Finish::due_of(size_t member) const {
    return wanted() ? members_[member].clock.theirs(due_us()) : 0;
}

bool Finish::is_late(size_t index, uint64_t expected_us) {
    Member &member = members_[index];
    if (!wanted() || expected_us == 0) {
        member.late = 0;
        return false;
    }
    member.expected_us = member.clock.ours(expected_us);
    const uint64_t lateness = std::max(least_lateness_us, duration_us_ / share_of_duration);
    member.late = member.expected_us > after(due_us(), lateness) ? member.late + 1 : 0;
    return member.late >= enough_reports;
}

uint64_t Finish::latest_us() const {
    uint64_t latest = 0;
    for (const Member &member : members_) {
        latest = std::max(latest, member.expected_us);
    }
    return latest;
}

bool Finish::move(uint64_t now_us) {
    if (std::exchange(moved_, true)) {
        return false;
    }
    const uint64_t latest = latest_us();
    const uint64_t spare = latest > now_us ? (latest - now_us) / share_to_spare : 0;
    const uint64_t due = after(cut_us_, duration_us_);
    const uint64_t moved = std::max(after(latest, spare), due);
    delay_us_ = std::min(moved - due, (most_stretch - 1) * duration_us_);
    return true;
}

} // namespace hotsnap::cluster
