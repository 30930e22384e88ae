// SPDX-License-Identifier: GPL-2.0-or-later
#include "invariants.h"

#include <optional>

#include "../names.h"

namespace hotsnap::sim {

namespace {

class Receiver {
  public:
    Receiver(const Config &config, const Ledger &ledger, const Run &run, std::string name,
             Incarnation self, const std::vector<uint64_t> &for_us, Violations &violations)
        : config_(config), ledger_(ledger), run_(run), name_(std::move(name)), self_(self),
          for_us_(for_us), violations_(violations) {}

    void check() {
        for (const auto &[number, nic] : run_.recorded.at(self_)) {
            check_recorded(number, nic);
        }
        uint64_t missing = 0;
        for (const uint64_t number : for_us_) {
            missing += is_missing(number, ledger_.segments[number]);
        }
        const auto declared = run_.declared_lost.find(self_);
        const uint64_t lost = declared == run_.declared_lost.end() ? 0 : declared->second;
        if (missing != lost) {
            violations_.push_back("channel_exact: run " + run_.name + ": " + name_ + " declares " +
                                  std::to_string(lost) + " segments lost, but " +
                                  std::to_string(missing) + " are missing");
        }
    }

  private:
    enum class Moment : uint8_t { never, before_cut, after_cut };

    Moment received(const Segment &segment, std::optional<size_t> nic) const {
        for (const Delivery &delivery : segment.deliveries) {
            if (delivery.to == self_ && (!nic || delivery.nic == *nic)) {
                return delivery.sequence < run_.cuts.at(self_).sequence ? Moment::before_cut
                                                                        : Moment::after_cut;
            }
        }
        return Moment::never;
    }

    bool sent_before_cut(const Segment &segment) const {
        const auto sender = run_.cuts.find(segment.from);
        return sender != run_.cuts.end() && segment.sent_sequence < sender->second.sequence;
    }

    bool is_group(const Segment &segment) const { return Mac(segment.destination_mac).is_group(); }
    bool is_for_us(const Segment &segment) const {
        const std::string *owner = ledger_.owner(segment.destination_mac);
        return owner && *owner == name_;
    }

    void check_recorded(uint64_t number, size_t nic) {
        const Segment &segment = ledger_.segments[number];
        if (!recorded_.insert({number, nic}).second) {
            complain(number, "is recorded twice");
        }
        if (!is_group(segment) && !is_for_us(segment)) {
            complain(number, "is recorded, but was not for this member");
        }
        if (!sent_before_cut(segment)) {
            complain(number, "is recorded, but was sent after the sender's cut");
        }
        if (received(segment, nic) == Moment::before_cut) {
            complain(number, "is recorded, but was received before the cut");
        }
    }

    // A white segment in the channel that is not in the record must have been declared lost.
    bool is_missing(uint64_t number, const Segment &segment) {
        if (!sent_before_cut(segment)) {
            return false;
        }
        const auto in_record = recorded_.lower_bound({number, 0});
        const Moment moment = received(segment, std::nullopt);
        if (moment == Moment::before_cut ||
            (in_record != recorded_.end() && in_record->first == number)) {
            return false;
        }
        if (segment.white_epoch == run_.epoch) {
            return true;
        }
        // Known limit: frames without color are not counted. Those that wait in the host for a main
        // loop that stands still longer than the time to settle may miss the record.
        if (moment == Moment::after_cut && config_.settle_us >= config_.transit_us &&
            !run_.stood_still.contains(self_)) {
            complain(number, "was sent without color before the cut, and came after the channels "
                             "were closed, although there was time to settle");
        }
        return false;
    }

    void complain(uint64_t number, const std::string &what) {
        violations_.push_back("channel_exact: run " + run_.name + ": segment " +
                              std::to_string(number) + " at " + name_ + " " + what);
    }

    const Config &config_;
    const Ledger &ledger_;
    const Run &run_;
    const std::string name_;
    const Incarnation self_;
    const std::vector<uint64_t> &for_us_;
    std::set<std::pair<uint64_t, size_t>> recorded_;
    Violations &violations_;
};

} // namespace

Violations channel_exact(const Config &config, const Ledger &ledger) {
    Violations violations;
    for (const std::string &name : ledger.moved) {
        violations.push_back("channel_exact: the record of " + name +
                             " changed while it was written");
    }
    // Unicast segments by member. Broadcasts cannot be colored, and so not be counted: those that
    // come while the channels are open are recorded, soundly, but perhaps not all of them.
    std::map<std::string, std::vector<uint64_t>> for_member;
    for (uint64_t number = 0; number < ledger.segments.size(); number++) {
        if (const std::string *owner = ledger.owner(ledger.segments[number].destination_mac)) {
            for_member[*owner].push_back(number);
        }
    }
    for (const auto &[name, run] : ledger.runs) {
        if (!run.published) {
            continue;
        }
        for (const auto &[member, incarnation] : run.members) {
            Receiver(config, ledger, run, member, incarnation, for_member[member], violations)
                .check();
        }
    }
    return violations;
}

} // namespace hotsnap::sim
