// SPDX-License-Identifier: GPL-2.0-or-later
// The initiator's half of a snapshot; snapshot_peer.cc has the peer's half.
#include "snapshot_run.h"

#include <algorithm>
#include <optional>

#include "bundle_stages.h"
#include "finish.h"
#include "network/hops.h"

namespace hotsnap::cluster {

namespace {

std::string seconds(uint64_t us) {
    const std::string tenths = std::to_string((us + 50'000) / 100'000);
    const std::string whole = tenths.size() > 1 ? tenths.substr(0, tenths.size() - 1) : "0";
    return whole + "." + tenths.back() + " s";
}

std::string mebibytes(uint64_t bytes) {
    return std::to_string((bytes + (1 << 19)) >> 20) + " MiB";
}

class SnapshotInitiator final : public InitiatorRun {
  public:
    explicit SnapshotInitiator(InitiatorEngine &engine)
        : engine_(engine), request_(engine.request()),
          finish_(request_.duration_us, request_.members.size()) {
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
    Json result() const override;
    uint64_t epoch() const override { return record_.epoch; }
    std::string on_progress(size_t member, const Progress &m) override;
    void set_duration(uint64_t duration_us) override;

  private:
    Stage precopy();
    std::string number_epoch(); // returns why the run must be aborted, or nothing
    void install();
    void listen();
    std::string take_heard(size_t member, const Heard &m);
    void arm();
    void cut();
    void expect();
    void settle_finish();
    template <typename M> void tell_finish();
    Json finish_report() const;
    void compare();
    std::string take_cut(size_t member, const TransientSnapFin &m);
    // What the member reports cannot be true; nothing if it can.
    std::string accused(size_t member, const std::string &error) const;

    InitiatorEngine &engine_;
    const Request &request_;
    RunRecord record_; // for the manifest
    std::vector<Member> members_;
    network::Hops hops_;
    Finish finish_;
    uint64_t listened_us_ = 0; // LISTEN was sent
    uint64_t cut_us_ = 0;      // SNAPSHOT was sent; 0: not yet
};

std::vector<Stage> SnapshotInitiator::stages() {
    std::vector<Stage> stages = {
        prepare_stage(request_, record_),
        {.phase = "install",
         .check = [this] { return number_epoch(); },
         .begin = [this] { install(); },
         .answer = answer<Installed>(),
         .deadline_us = request_.arm_timeout_us},
        // The probes arrive meanwhile. Which NICs have a path must be known before any frame is
        // colored: a network that drops those would lose them, and each path needs a mark.
        {.deadline_us = request_.settle_us, .waits = true},
        {.begin = [this] { listen(); },
         .answer =
             answer<Heard>([this](size_t member, const Heard &m) { return take_heard(member, m); }),
         .deadline_us = request_.arm_timeout_us},
        {.phase = "arm",
         .check = [this] { return hops_.obstacle(); },
         .begin = [this] { arm(); },
         .answer = answer<Armed>(),
         .deadline_us = request_.arm_timeout_us},
        // Uncolored frames, sent before their sender was armed, arrive meanwhile: nobody can tell
        // one with a new source from one of the outside. A member whose cut is faster may send red
        // frames now. That is sound: all were armed before any cut.
        {.deadline_us = request_.settle_us, .waits = true},
        {.phase = "snapshot",
         .begin = [this] { cut(); },
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
        full_stage(request_, record_,
                   [this] {
                       compare();
                       engine_.broadcast(ColoringEnd{engine_.run()});
                   }),
        publish_stage(engine_, [this] { return result(); }),
    };
    if (request_.mode == Request::Mode::precopy) {
        stages.insert(stages.begin() + 1, precopy());
    }
    return stages;
}

// Before frames are colored, since it takes as long as a copy may take. It does not wait for a copy
// that does not converge: the member says so, and the rest is copied after the cut. Members that
// are ready go on making rounds until ARM.
Stage SnapshotInitiator::precopy() {
    return {.phase = "precopy",
            .begin = [this] { engine_.broadcast(Precopy{engine_.run()}); },
            .answer = answer<Precopied>([this](size_t member, const Precopied &m) {
                if (!m.converged) {
                    engine_.warn(engine_.describe(member) +
                                 " writes to its memory faster than it is copied; " +
                                 mebibytes(m.left) + " are left to be copied after the cut");
                }
                return "";
            }),
            .deadline_us = request_.full_timeout_us,
            .silence_counts = true};
}

std::string SnapshotInitiator::number_epoch() {
    for (size_t i = 0; i < record_.members.size(); i++) {
        members_.push_back({request_.members[i].name, record_.members[i].prepared.nics});
    }
    uint64_t epoch = 0;
    std::string error = next_epoch(record_, epoch);
    if (!error.empty()) {
        return error;
    }
    std::optional<MemberTable> table = MemberTable::build(members_, error);
    if (!table) {
        return error;
    }
    hops_ = network::Hops(std::move(*table));
    record_.epoch = epoch;
    return "";
}

void SnapshotInitiator::install() {
    engine_.broadcast(Install{engine_.run(), record_.epoch, std::move(members_)});
}

// All are asked at once, so that the slowest answer is waited for, not the sum.
void SnapshotInitiator::listen() {
    listened_us_ = engine_.now_us();
    engine_.broadcast(Listen{engine_.run()});
}

std::string SnapshotInitiator::take_heard(size_t member, const Heard &m) {
    const auto boot = [&](size_t i) {
        return find_string(record_.members[i].prepared.info, "boot_id");
    };
    if (boot(member).empty() || boot(member) != boot(request_.self)) {
        finish_.set_clock(member, ClockOffset::measured(listened_us_, m.received_us, m.replied_us,
                                                        engine_.now_us()));
    }
    return accused(member, hops_.hear(static_cast<uint32_t>(member), m.heard));
}

// A red frame may force a member's cut before SNAPSHOT reaches it. Its copy must not run away
// meanwhile, so it is told already here when the copy will about have to end.
void SnapshotInitiator::arm() {
    finish_.set_cut(after(engine_.now_us(), request_.settle_us));
    tell_finish<Arm>();
}

void SnapshotInitiator::cut() {
    cut_us_ = engine_.now_us();
    finish_.set_cut(cut_us_);
    tell_finish<Snapshot>();
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

// The duration counts from the first pause on, which is known now.
void SnapshotInitiator::settle_finish() {
    uint64_t first = engine_.now_us();
    for (size_t i = 0; i < record_.members.size(); i++) {
        if (const auto begin = find_uint(record_.members[i].cut.pause, "begin_ns")) {
            const uint64_t at = finish_.clock(i).ours(*begin / 1000);
            if (at >= cut_us_) { // else it cannot be true
                first = std::min(first, at);
            }
        }
    }
    finish_.set_cut(first);
    if (finish_.wanted()) {
        tell_finish<Retarget>();
    }
}

// Without an instant the message is the same for all, and is encoded once.
template <typename M> void SnapshotInitiator::tell_finish() {
    if (!finish_.wanted()) {
        engine_.broadcast(M{engine_.run()});
        return;
    }
    for (size_t i = 0; i < record_.members.size(); i++) {
        engine_.send(i, M{engine_.run(), finish_.due_of(i)});
    }
}

void SnapshotInitiator::set_duration(uint64_t duration_us) {
    if (request_.mode != Request::Mode::hot) {
        throw BadInput(std::string("a snapshot with mode '") + to_string(request_.mode) +
                       "' has no duration that could be changed");
    }
    finish_.set_duration(duration_us);
    if (cut_us_ != 0) {
        tell_finish<Retarget>();
    }
}

std::string SnapshotInitiator::on_progress(size_t member, const Progress &m) {
    if (cut_us_ == 0 || !finish_.is_late(member, m.expected_us)) {
        return "";
    }
    const uint64_t expected = finish_.clock(member).ours(m.expected_us) - finish_.cut_us();
    const std::string late = engine_.describe(member) + " cannot end its copy " +
                             seconds(finish_.duration_us()) + " after the cut: it expects " +
                             seconds(expected);
    if (request_.strict) {
        return late + "; allow more time, or load the storage less";
    }
    if (finish_.move(engine_.now_us())) {
        engine_.warn(late + "; all members were told to end " +
                     seconds(finish_.due_us() - finish_.cut_us()) + " after the cut");
        tell_finish<Retarget>();
    }
    return "";
}

Json SnapshotInitiator::result() const {
    Json manifest = snapshot_manifest(request_, record_, engine_.log());
    if (finish_.wanted()) {
        manifest["finish"] = finish_report();
    }
    return manifest;
}

// How far from the instant each copy ended.
Json SnapshotInitiator::finish_report() const {
    Json members = Json::array();
    std::optional<int64_t> first, last;
    for (size_t i = 0; i < record_.members.size(); i++) {
        Json deviation = nullptr;
        const Json &report = record_.members[i].report;
        const auto memory = report.find("memory");
        if (const auto copied =
                memory == report.end() ? std::nullopt : find_uint(*memory, "copied_ns")) {
            const uint64_t ours = finish_.clock(i).ours(*copied / 1000);
            const auto late = static_cast<int64_t>(ours - finish_.due_us());
            first = std::min(first.value_or(late), late);
            last = std::max(last.value_or(late), late);
            deviation = late;
        }
        members.push_back({{"name", request_.members[i].name},
                           {"deviation_us", deviation},
                           {"clock_error_us", finish_.clock(i).error_us}});
    }
    return {{"duration_us", finish_.duration_us()},
            {"delay_us", finish_.delay_us()},
            {"due_ns", finish_.due_us() * 1000},
            {"spread_us", first ? Json(*last - *first) : Json(nullptr)},
            {"members", std::move(members)}};
}

void SnapshotInitiator::expect() {
    settle_finish();
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
