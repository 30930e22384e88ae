// SPDX-License-Identifier: GPL-2.0-or-later
#include "restore_run.h"

#include "wire/manifest.h"

namespace hotsnap::cluster {

namespace {

class RestoreInitiator final : public InitiatorRun {
  public:
    explicit RestoreInitiator(InitiatorEngine &engine)
        : engine_(engine), request_(engine.request()) {
        record_.members.resize(request_.members.size());
    }

    std::vector<Stage> stages() override {
        return {
            {.phase = "load",
             .answer = answer<Loaded>([this](size_t member, const Loaded &m) {
                 record_.members[member].report = m.report;
                 return "";
             }),
             .deadline_us = request_.load_timeout_us,
             .silence_counts = true},
            {.phase = "start",
             .begin = [this] { engine_.broadcast(Start{engine_.run()}); },
             .answer = answer<Started>([this](size_t member, const Started &m) {
                 record_.members[member].report.update(m.report);
                 return "";
             }),
             .deadline_us = request_.start_timeout_us,
             .cancels = false}, // members that have got START run already
        };
    }
    Message opening() const override {
        return Restore{engine_.run(), request_.bundle, request_.heartbeat_us, request_.silence_us,
                       request_.options};
    }
    Message closing() const override { return Restored{engine_.run()}; }
    const char *final_phase() const override { return "restored"; }
    Json result() const override { return restore_result(request_, record_, engine_.log()); }

  private:
    InitiatorEngine &engine_;
    const Request &request_;
    RunRecord record_;
};

class RestorePeer final : public PeerRun {
  public:
    RestorePeer(Restore opening, PeerEngine &engine)
        : engine_(engine), opening_(std::move(opening)) {}

    void begin() override {
        engine_.say_phase("load");
        engine_.work(member::LoadWork{engine_.run(), opening_.bundle, engine_.initiator(),
                                      engine_.leads(), opening_.options});
    }

    bool on_message(const Message &message) override {
        if (state_ == State::loaded && std::holds_alternative<Start>(message)) {
            state_ = State::starting;
            engine_.say_phase("start");
            engine_.work(member::StartWork{});
            return true;
        }
        if (state_ == State::started && std::holds_alternative<Restored>(message)) {
            engine_.keep("restored");
            return true;
        }
        return false;
    }

    bool on_local(const member::LocalEvent &event) override {
        if (const auto *loaded = std::get_if<member::Loaded>(&event);
            loaded && state_ == State::loading) {
            state_ = State::loaded;
            engine_.reply(Loaded{engine_.run(), loaded->report});
            return true;
        }
        if (const auto *started = std::get_if<member::Started>(&event);
            started && state_ == State::starting) {
            state_ = State::started;
            engine_.reply(Started{engine_.run(), started->report});
            if (engine_.initiator_is_lost()) {
                engine_.keep_in_doubt();
            }
            return true;
        }
        return false;
    }

    PeerState state() const override {
        switch (state_) {
        case State::loading:
            return {"loading"};
        case State::loaded:
            return {"loaded"};
        case State::starting:
            return {"starting", Alone::goes_on};
        case State::started:
            return {"started", Alone::keeps};
        }
        return {"?"};
    }
    std::string title() const override { return "a restore"; }
    uint64_t heartbeat_us() const override { return opening_.heartbeat_us; }
    uint64_t silence_us() const override { return opening_.silence_us; }

  private:
    enum class State : uint8_t { loading, loaded, starting, started };

    PeerEngine &engine_;
    const Restore opening_;
    State state_ = State::loading;
};

} // namespace

std::unique_ptr<InitiatorRun> make_restore_initiator(InitiatorEngine &engine) {
    return std::make_unique<RestoreInitiator>(engine);
}

std::unique_ptr<PeerRun> make_restore_peer(const Message &opening, PeerEngine &engine) {
    return std::make_unique<RestorePeer>(std::get<Restore>(opening), engine);
}

} // namespace hotsnap::cluster
