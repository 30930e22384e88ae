// SPDX-License-Identifier: GPL-2.0-or-later
#include "save/pacer.h"

#include <algorithm>

namespace hotsnap::memory {

namespace {

constexpr double most_pages = 512; // 2 MiB
constexpr double least_pages = 16; // a group
constexpr double steps_to_end = 16;

constexpr double averaged_pages = 8192;

// Idle time that a zero page gets, in parts of what a page of data gets. Not 0, so that a guest
// that is zero from some page on still has its idle time spread.
constexpr double zero_charge = 1.0 / 32;

constexpr double lead_share = 1.0 / 50; // of the time to the deadline when that is set
constexpr double most_lead_ns = 20e6;

// The reserve is begun early enough for a step that takes longer than usual.
constexpr double landing_factor = 1.5;
constexpr double landing_ns = 200e3;

constexpr double short_work_ns = 5e6;

constexpr double longest_wait_ns = 3600e9;

double charge_of(double zero, double data) {
    return data + zero * zero_charge;
}

// Signed: the deadline may be over.
double time_to(uint64_t instant_ns, uint64_t now_ns) {
    return instant_ns >= now_ns ? static_cast<double>(instant_ns - now_ns)
                                : -static_cast<double>(now_ns - instant_ns);
}

uint64_t as_wait(double ns) {
    return static_cast<uint64_t>(std::clamp(ns, 0.0, longest_wait_ns));
}

} // namespace

void Pacer::Cost::add(double pages, double ns) {
    const double kept = averaged_pages / (averaged_pages + pages);
    ns_ = ns_ * kept + ns;
    pages_ = pages_ * kept + pages;
}

void Pacer::set_deadline(uint64_t deadline_ns, uint64_t now_ns) {
    deadline_ = deadline_ns;
    lead_ = std::clamp(time_to(deadline_ns, now_ns) * lead_share, 0.0, most_lead_ns);
}

void Pacer::done(const ChunkDone &chunk, uint64_t now_ns) {
    const auto absent = static_cast<double>(chunk.absent);
    const auto zero = static_cast<double>(chunk.zero);
    const auto data = static_cast<double>(chunk.data);
    const double absent_ns = absent * absent_cost_.ns();
    const double zero_ns = zero * zero_cost_.ns();
    const double data_ns = data * data_cost_.ns();
    const double expected = absent_ns + zero_ns + data_ns;
    if (expected > 0) {
        // Of a mixed chunk each kind gets its share of the time as expected so far.
        const double factor = static_cast<double>(chunk.busy_ns) / expected;
        absent_cost_.add(absent, absent_ns * factor);
        zero_cost_.add(zero, zero_ns * factor);
        data_cost_.add(data, data_ns * factor);
    }
    charge_ = charge_of(zero, data);
    ready_ns_ = now_ns;
}

double Pacer::work_ns(const PagesLeft &left, const RateLimit &limit) const {
    return left.absent * absent_cost_.ns() + left.zero * zero_cost_.ns() +
           left.data * std::max(data_cost_.ns(), limit.ns_per_page) +
           static_cast<double>(limit.owed_ns);
}

// The part of the idle time that belongs to the wait after the last chunk. The last chunk of all,
// the reserve, has no wait after it.
double Pacer::idle_share(const PagesLeft &left) const {
    const double ahead = charge_of(left.zero, left.data) * (1 - reserve_ / left.present());
    return charge_ > 0 ? charge_ / (charge_ + ahead) : 0;
}

Pacer::Step Pacer::next(const PagesLeft &left, const RateLimit &limit, uint64_t now_ns) {
    if (!planned_) {
        planned_ = true;
        ready_ns_ = now_ns;
    }
    last_work_ns_ = work_ns(left, limit);
    constexpr auto whole = static_cast<uint64_t>(most_pages);
    if (deadline_ == 0 || left.present() < 1) {
        return {0, whole};
    }
    const double to_deadline = time_to(deadline_, now_ns);
    if (left.present() <= reserve_) {
        const double wait = to_deadline - landing_factor * last_work_ns_ - landing_ns;
        return {as_wait(wait), whole, last_work_ns_ < short_work_ns};
    }
    const double waited = time_to(now_ns, ready_ns_);
    const double idle = to_deadline + waited - lead_ - last_work_ns_;
    const double wait = std::max(idle, 0.0) * idle_share(left) - waited;
    const double steps = std::clamp(left.present() / steps_to_end, least_pages, most_pages);
    const double pages = std::min(idle > 0 ? steps : most_pages, left.present() - reserve_);
    return {as_wait(wait), static_cast<uint64_t>(std::max(pages, 1.0))};
}

uint64_t Pacer::expected_end(uint64_t now_ns) const {
    if (!planned_) {
        return 0;
    }
    return std::max(deadline_, now_ns + as_wait(last_work_ns_));
}

} // namespace hotsnap::memory
