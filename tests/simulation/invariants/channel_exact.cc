// SPDX-License-Identifier: GPL-2.0-or-later
#include "invariants.h"

#include <optional>

#include "../names.h"

namespace hotsnap::sim {

namespace {

// What was sent before its sender's cut and not received before its receiver's is in one record, or
// declared lost; nothing else is in a record.
class Channels {
  public:
    Channels(const Config &config, const Ledger &ledger, const Run &run, Violations &violations)
        : config_(config), ledger_(ledger), run_(run), violations_(violations) {}

    void check() {
        for (const auto &[name, incarnation] : run_.members) {
            if (!run_.cuts.contains(incarnation) || !run_.recorded.contains(incarnation)) {
                complain(name + " has no cut, or no record");
                return;
            }
        }
        for (const auto &[name, incarnation] : run_.members) {
            for (const auto &[number, nic] : run_.recorded.at(incarnation)) {
                check_recorded(name, incarnation, number, nic);
            }
            for (const uint64_t number : run_.held_back.at(incarnation)) {
                check_held_back(incarnation, number);
            }
        }
        // Nobody knows where a segment to an address that two members have, or none, should be.
        // Some may be declared lost that came to the other.
        uint64_t missing = 0, doubtful = 0;
        for (uint64_t number = 0; number < ledger_.segments.size(); number++) {
            const Segment &segment = ledger_.segments[number];
            if (Mac(segment.destination_mac).is_group() || !sent_before_cut(segment)) {
                continue;
            }
            const auto member = run_.members.find(segment.to);
            if (member != run_.members.end()) {
                missing += is_missing(number, segment, member->first, member->second);
            } else if (segment.white_epoch == run_.epoch) {
                doubtful++;
            }
        }
        // What members declare by themselves is exact. A comparison may also find a copy missing.
        if (missing > run_.declared_lost ||
            run_.declared_lost - run_.lost_between > missing + doubtful) {
            complain(std::to_string(run_.declared_lost) + " segments are declared lost, " +
                     std::to_string(run_.lost_between) + " of them between members, but " +
                     std::to_string(missing) + " are missing and " + std::to_string(doubtful) +
                     " more may be");
        }
    }

  private:
    enum class Moment : uint8_t { never, before_cut, after_cut };

    Moment received(const Segment &segment, Incarnation by, std::optional<size_t> nic) const {
        for (const Delivery &delivery : segment.deliveries) {
            if (delivery.to == by && (!nic || delivery.nic == *nic)) {
                return delivery.sequence < run_.cuts.at(by).sequence ? Moment::before_cut
                                                                     : Moment::after_cut;
            }
        }
        return Moment::never;
    }

    bool sent_before_cut(const Segment &segment) const {
        const auto sender = run_.cuts.find(segment.from);
        return sender != run_.cuts.end() && segment.sent_sequence < sender->second.sequence;
    }
    bool is_held_back(uint64_t number) const {
        const auto held = run_.held_back.find(ledger_.segments[number].from);
        return held != run_.held_back.end() && held->second.contains(number);
    }
    bool is_recorded(uint64_t number, Incarnation by) const {
        const auto at = recorded_.lower_bound({by, number, 0});
        return at != recorded_.end() && std::get<0>(*at) == by && std::get<1>(*at) == number;
    }
    void check_recorded(const std::string &name, Incarnation by, uint64_t number, size_t nic) {
        const Segment &segment = ledger_.segments[number];
        const std::string what = "segment " + std::to_string(number) + " at " + name;
        if (!run_.cuts.contains(segment.from)) {
            return; // no member sent it, but one that has a member's address
        }
        if (!recorded_.insert({by, number, nic}).second) {
            complain(what + " is recorded twice");
        }
        if (!sent_before_cut(segment)) {
            complain(what + " is recorded, but was sent after the sender's cut");
        }
        if (received(segment, by, nic) == Moment::before_cut) {
            complain(what + " is recorded, but was received before the cut");
        }
        if (is_held_back(number)) {
            complain(what + " is recorded, and by its sender as well");
        }
    }

    void check_held_back(Incarnation by, uint64_t number) {
        const Segment &segment = ledger_.segments[number];
        const std::string what = "segment " + std::to_string(number);
        if (segment.from != by || !sent_before_cut(segment)) {
            complain(what + " is recorded on its way out, but was sent after the cut");
        }
        for (const auto &[name, other] : run_.members) {
            if (received(segment, other, std::nullopt) == Moment::before_cut) {
                complain(what + " is recorded on its way out, but " + name + " had received it");
            }
        }
    }

    bool is_missing(uint64_t number, const Segment &segment, const std::string &name,
                    Incarnation by) {
        const Moment moment = received(segment, by, std::nullopt);
        if (moment == Moment::before_cut || is_recorded(number, by) || is_held_back(number)) {
            return false;
        }
        if (segment.white_epoch == run_.epoch) {
            return true;
        }
        // Frames without color are not counted. The sender's mark comes after them. Known limits: a
        // path is not known on which nothing has come, in either direction, from INSTALL to the
        // cut; and the time in which frames from new sources come ends with the first cut, which a
        // forged frame may force early.
        if (moment == Moment::after_cut && run_.unmarked == 0 && !run_.forged &&
            config_.settle_us >= config_.transit_us) {
            complain("segment " + std::to_string(number) + " from " +
                     Mac(segment.source_mac).to_string() + " at " + name +
                     " was sent without color before the cut, and came after the channels were "
                     "closed");
        }
        return false;
    }

    void complain(const std::string &what) {
        violations_.push_back("channel_exact: run " + run_.name + ": " + what);
    }

    const Config &config_;
    const Ledger &ledger_;
    const Run &run_;
    std::set<std::tuple<Incarnation, uint64_t, size_t>> recorded_;
    Violations &violations_;
};

} // namespace

Violations channel_exact(const Config &config, const Ledger &ledger) {
    Violations violations;
    for (const std::string &name : ledger.moved) {
        violations.push_back("channel_exact: the record of " + name +
                             " changed while it was written");
    }
    for (const auto &[name, run] : ledger.runs) {
        if (run.published && !run.barrier) {
            Channels(config, ledger, run, violations).check();
        }
    }
    return violations;
}

} // namespace hotsnap::sim
