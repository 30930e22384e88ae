// SPDX-License-Identifier: GPL-2.0-or-later
// The initiator's half of a barrier; barrier_peer.cc has the peer's half.
#include "barrier_run.h"

#include "bundle_stages.h"

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
    InitiatorEngine &engine_;
    const Request &request_;
    RunRecord record_; // for the manifest
};

std::vector<Stage> BarrierInitiator::stages() {
    return {
        prepare_stage(request_, record_),
        // A stage of its own: who is ready early must not hold while another flushes.
        {.phase = "flush",
         // No frame carries it. It names the run for the user.
         .check = [this] { return next_epoch(record_, record_.epoch); },
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
        full_stage(request_, record_, [this] { engine_.broadcast(AllSwitched{engine_.run()}); }),
        publish_stage(engine_, [this] { return result(); }),
    };
}

} // namespace

std::unique_ptr<InitiatorRun> make_barrier_initiator(InitiatorEngine &engine) {
    return std::make_unique<BarrierInitiator>(engine);
}

} // namespace hotsnap::cluster
