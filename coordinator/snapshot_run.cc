// SPDX-License-Identifier: GPL-2.0-or-later
// The initiator's half of a snapshot; snapshot_peer.cc has the peer's half.
#include "snapshot_run.h"

#include <algorithm>

#include "network/hops.h"
#include "wire/manifest.h"

namespace hotsnap::cluster {

namespace {

class SnapshotInitiator final : public InitiatorRun {
  public:
    explicit SnapshotInitiator(InitiatorEngine &engine)
        : engine_(engine), request_(engine.request()) {
        record_.members.resize(request_.members.size());
    }

    std::vector<Stage> stages() override;
    Message opening() const override {
        return Prepare{engine_.run(),       request_.tag,      request_.directory,
                       request_.coloring,   request_.drain_us, request_.heartbeat_us,
                       request_.silence_us, request_.options};
    }
    Message closing() const override { return AllFullSnapFin{engine_.run()}; }
    const char *final_phase() const override { return "committed"; }
    Json result() const override { return snapshot_manifest(request_, record_, engine_.log()); }
    uint64_t epoch() const override { return record_.epoch; }

  private:
    std::string number_epoch(); // returns why the run must be aborted, or nothing
    void install();
    void expect();
    void compare();
    std::string take_cut(size_t member, const TransientSnapFin &m);
    // What the member reports cannot be true; nothing if it can.
    std::string accused(size_t member, const std::string &error) const;

    InitiatorEngine &engine_;
    const Request &request_;
    RunRecord record_; // for the manifest
    std::vector<Member> members_;
    network::Hops hops_;
};

std::vector<Stage> SnapshotInitiator::stages() {
    return {
        {.phase = "prepare",
         .answer = answer<Prepared>([this](size_t member, const Prepared &m) {
             record_.members[member].prepared = m;
             return "";
         }),
         .deadline_us = request_.prepare_timeout_us},
        {.phase = "install",
         .check = [this] { return number_epoch(); },
         .begin = [this] { install(); },
         .answer = answer<Installed>(),
         .deadline_us = request_.arm_timeout_us},
        // The probes arrive meanwhile. Which NICs have a path must be known before any frame is
        // colored: a network that drops those would lose them, and each path needs a mark.
        {.deadline_us = request_.settle_us, .waits = true},
        {.begin = [this] { engine_.broadcast(Listen{engine_.run()}); },
         .answer = answer<Heard>([this](size_t member, const Heard &m) {
             return accused(member, hops_.hear(static_cast<uint32_t>(member), m.heard));
         }),
         .deadline_us = request_.arm_timeout_us},
        {.phase = "arm",
         .check = [this] { return hops_.obstacle(); },
         .begin = [this] { engine_.broadcast(Arm{engine_.run()}); },
         .answer = answer<Armed>(),
         .deadline_us = request_.arm_timeout_us},
        // Uncolored frames, sent before their sender was armed, arrive meanwhile: nobody can tell
        // one with a new source from one of the outside. A member whose cut is faster may send red
        // frames now. That is sound: all were armed before any cut.
        {.deadline_us = request_.settle_us, .waits = true},
        {.phase = "snapshot",
         .begin = [this] { engine_.broadcast(Snapshot{engine_.run()}); },
         .answer = answer<TransientSnapFin>(
             [this](size_t member, const TransientSnapFin &m) { return take_cut(member, m); }),
         .deadline_us = request_.cut_timeout_us},
        {.phase = "transient-fin",
         .check = [this] { return hops_.obstacle(); },
         .begin = [this] { expect(); },
         .answer = answer<ChannelsFin>([this](size_t member, const ChannelsFin &m) {
             record_.members[member].channels = m;
             return "";
         }),
         .deadline_us = after(request_.drain_us, request_.cut_timeout_us)},
        {.phase = "full",
         .begin =
             [this] {
                 compare();
                 engine_.broadcast(ColoringEnd{engine_.run()});
             },
         .answer = answer<FullSnapFin>([this](size_t member, const FullSnapFin &m) {
             record_.members[member].report = m.report;
             return "";
         }),
         .deadline_us = request_.full_timeout_us,
         .silence_counts = true,
         .loss = Loss::aborts_unless_answered, // channels are closed, the member's part is durable
         .completes = true},
        {.phase = "publish",
         .begin = [this] { engine_.work(member::PublishWork{result()}); },
         .loss = Loss::is_noted,
         .cancels = false,
         .decided_by =
             [](const member::LocalEvent &event) {
                 return std::holds_alternative<member::Published>(event);
             },
         .failure = "cannot publish the bundle: "},
    };
}

std::string SnapshotInitiator::number_epoch() {
    uint64_t newest = 0;
    for (size_t i = 0; i < record_.members.size(); i++) {
        const Prepared &prepared = record_.members[i].prepared;
        members_.push_back({request_.members[i].name, prepared.nics});
        newest = std::max(newest, prepared.last_epoch);
    }
    if (newest == UINT64_MAX) {
        return "the epoch numbers are used up; a member reports an impossible one";
    }
    std::string error;
    std::optional<MemberTable> table = MemberTable::build(members_, error);
    if (!table) {
        return error;
    }
    hops_ = network::Hops(std::move(*table));
    record_.epoch = newest + 1;
    return "";
}

void SnapshotInitiator::install() {
    engine_.broadcast(Install{engine_.run(), record_.epoch, std::move(members_)});
}

std::string SnapshotInitiator::take_cut(size_t member, const TransientSnapFin &m) {
    const auto index = static_cast<uint32_t>(member);
    std::string error = hops_.send(index, m.white_sent);
    if (error.empty()) {
        error = hops_.hear(index, m.heard);
    }
    record_.members[member].cut = m;
    return accused(member, error);
}

std::string SnapshotInitiator::accused(size_t member, const std::string &error) const {
    return error.empty() ? "" : engine_.describe(member) + " reports " + error;
}

void SnapshotInitiator::expect() {
    std::vector<network::Hops::Expected> expected = hops_.expected();
    for (size_t i = 0; i < expected.size(); i++) {
        engine_.send(i, AllTransientSnapFin{engine_.run(), std::move(expected[i].white),
                                            std::move(expected[i].marks)});
    }
}

void SnapshotInitiator::compare() {
    std::vector<PairCounts> got;
    for (const MemberRecord &member : record_.members) {
        got.push_back(member.channels.unexpected);
    }
    record_.lost_between = hops_.lost(got);
}

} // namespace

std::unique_ptr<InitiatorRun> make_snapshot_initiator(InitiatorEngine &engine) {
    return std::make_unique<SnapshotInitiator>(engine);
}

} // namespace hotsnap::cluster
