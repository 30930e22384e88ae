// SPDX-License-Identifier: GPL-2.0-or-later
// The initiator's half of a barrier; barrier_peer.cc has the peer's half.
#include "barrier_run.h"

#include <algorithm>

#include "wire/manifest.h"

namespace hotsnap::cluster {

namespace {

class BarrierInitiator final : public InitiatorRun {
  public:
    explicit BarrierInitiator(InitiatorEngine &engine)
        : engine_(engine), request_(engine.request()) {
        record_.members.resize(request_.members.size());
    }

    std::vector<Stage> stages() override;
    Message opening() const override {
        return PrepareBarrier{engine_.run(),    request_.tag,          request_.directory,
                              request_.hold_us, request_.heartbeat_us, request_.silence_us,
                              request_.options};
    }
    Message closing() const override { return AllFullSnapFin{engine_.run()}; }
    const char *final_phase() const override { return "committed"; }
    Json result() const override { return snapshot_manifest(request_, record_, engine_.log()); }
    uint64_t epoch() const override { return record_.epoch; }

  private:
    std::string number_epoch(); // returns why the run must be aborted, or nothing

    InitiatorEngine &engine_;
    const Request &request_;
    RunRecord record_; // for the manifest
};

std::vector<Stage> BarrierInitiator::stages() {
    return {
        {.phase = "prepare",
         .answer = answer<Prepared>([this](size_t member, const Prepared &m) {
             record_.members[member].prepared = m;
             return "";
         }),
         .deadline_us = request_.prepare_timeout_us},
        // A stage of its own: who is ready early must not hold while another flushes.
        {.phase = "flush",
         .check = [this] { return number_epoch(); },
         .begin =
             [this] {
                 engine_.broadcast(Flush{engine_.run(), record_.epoch});
             },
         .answer = answer<Flushed>(),
         .deadline_us = request_.arm_timeout_us},
        {.phase = "hold",
         .begin = [this] { engine_.broadcast(Hold{engine_.run()}); },
         .answer = answer<Held>(),
         .deadline_us = request_.hold_us - request_.hold_us / 8},
        // Whoever has switched holds nothing any more, so it harms nobody to wait for the others.
        {.phase = "switch",
         .begin = [this] { engine_.broadcast(Switch{engine_.run()}); },
         .answer = answer<Switched>([this](size_t member, const Switched &m) {
             record_.members[member].cut.pause = m.hold;
             record_.members[member].cut.cause = "barrier";
             return "";
         }),
         .deadline_us = after(request_.hold_us, request_.cut_timeout_us)},
        {.phase = "full",
         .begin = [this] { engine_.broadcast(AllSwitched{engine_.run()}); },
         .answer = answer<FullSnapFin>([this](size_t member, const FullSnapFin &m) {
             record_.members[member].report = m.report;
             return "";
         }),
         .deadline_us = request_.full_timeout_us,
         .silence_counts = true,
         .loss = Loss::aborts_unless_answered, // the member's part is durable
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

// No frame carries it. It names the run for the user, in the order of all snapshots of the members.
std::string BarrierInitiator::number_epoch() {
    uint64_t newest = 0;
    for (const MemberRecord &member : record_.members) {
        newest = std::max(newest, member.prepared.last_epoch);
    }
    if (newest == UINT64_MAX) {
        return "the epoch numbers are used up; a member reports an impossible one";
    }
    record_.epoch = newest + 1;
    return "";
}

} // namespace

std::unique_ptr<InitiatorRun> make_barrier_initiator(InitiatorEngine &engine) {
    return std::make_unique<BarrierInitiator>(engine);
}

} // namespace hotsnap::cluster
