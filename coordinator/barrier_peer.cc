// SPDX-License-Identifier: GPL-2.0-or-later
// The peer's half of a barrier.
#include <optional>

#include "barrier_run.h"
#include "standstill.h"

namespace hotsnap::cluster {

namespace {

class BarrierPeer final : public PeerRun {
  public:
    BarrierPeer(PrepareBarrier opening, PeerEngine &engine)
        : engine_(engine), opening_(std::move(opening)) {}

    void begin() override;
    bool on_message(const Message &message) override {
        return std::visit([this](const auto &m) { return handle(m); }, message);
    }
    bool on_local(const member::LocalEvent &event) override {
        return std::visit([this](const auto &e) { return local(e); }, event);
    }
    uint64_t deadline() const override { return standstill_.deadline(); }
    void tick() override;

    PeerState state() const override;
    std::string title() const override { return "the snapshot '" + opening_.tag + "'"; }
    std::string tag() const override { return opening_.tag; }
    uint64_t epoch() const override { return epoch_; }
    uint64_t heartbeat_us() const override { return opening_.heartbeat_us; }
    uint64_t silence_us() const override { return opening_.silence_us; }

  private:
    enum class State : uint8_t {
        preparing,
        prepared,
        flushing,
        flushed,
        holding,
        held,
        switching,
        switched,
        copying,
        promised,
    };

    bool handle(const Flush &m);
    bool handle(const Hold &m);
    bool handle(const Switch &m);
    bool handle(const AllSwitched &m);
    bool handle(const AllFullSnapFin &m);
    template <typename M> bool handle(const M &) { return false; } // not for a peer

    bool local(const member::Prepared &e);
    bool local(const member::Flushed &e);
    bool local(const member::Held &e);
    bool local(const member::Switched &e);
    bool local(const member::FullFin &e);
    bool local(const member::Beat &e);
    template <typename E> bool local(const E &) { return false; } // not of a barrier

    // Goes from a state to the next one; false, and nothing has changed, when it is not in it.
    bool pass(State from, State to);
    void promise(); // if this member's part is complete and all have switched

    PeerEngine &engine_;
    const PrepareBarrier opening_;
    State state_ = State::preparing;
    uint64_t epoch_ = 0;
    std::optional<Json> report_; // of this member's part, once it is complete
    Standstill standstill_;
};

PeerState BarrierPeer::state() const {
    switch (state_) {
    case State::preparing:
        return {"preparing", Alone::aborts, Failing::refuses};
    case State::prepared:
        return {"prepared"};
    case State::flushing:
        return {"flushing"};
    case State::flushed:
        return {"flushed"};
    case State::holding:
        return {"holding"};
    case State::held:
        return {"held"};
    case State::switching:
        return {"switching"};
    case State::switched:
        return {"switched"};
    case State::copying:
        return {"copying"};
    case State::promised: // a published bundle may refer to our files
        return {"promised", Alone::keeps, Failing::tells};
    }
    return {"?"};
}

bool BarrierPeer::pass(State from, State to) {
    if (state_ != from) {
        return false;
    }
    state_ = to;
    return true;
}

// Messages of the initiator.

void BarrierPeer::begin() {
    engine_.say_phase("prepare");
    engine_.work(member::PrepareWork{engine_.run(), opening_.tag, opening_.directory,
                                     engine_.initiator(), engine_.leads(), false,
                                     opening_.options});
}

bool BarrierPeer::handle(const Flush &m) {
    if (!pass(State::prepared, State::flushing)) {
        return false;
    }
    if (!engine_.use_epoch(m.epoch)) {
        return true;
    }
    epoch_ = m.epoch;
    engine_.say_phase("flush");
    engine_.work(member::FlushWork{});
    return true;
}

bool BarrierPeer::handle(const Hold &) {
    if (!pass(State::flushed, State::holding)) {
        return false;
    }
    engine_.work(member::HoldWork{opening_.hold_us}); // first: time counts
    engine_.say_phase("hold");
    return true;
}

bool BarrierPeer::handle(const Switch &) {
    if (!pass(State::held, State::switching)) {
        return false;
    }
    engine_.work(member::SwitchWork{});
    engine_.say_phase("switch");
    return true;
}

bool BarrierPeer::handle(const AllSwitched &) {
    if (!pass(State::switched, State::copying)) {
        return false;
    }
    engine_.say_phase("full");
    promise();
    return true;
}

bool BarrierPeer::handle(const AllFullSnapFin &) {
    if (state_ != State::promised) {
        return false;
    }
    engine_.keep("committed");
    return true;
}

// Answers of the machine.

bool BarrierPeer::local(const member::Prepared &e) {
    if (!pass(State::preparing, State::prepared)) {
        return false;
    }
    engine_.reply(Prepared{engine_.run(), engine_.last_epoch(), e.nics, e.info});
    return true;
}

bool BarrierPeer::local(const member::Flushed &) {
    if (!pass(State::flushing, State::flushed)) {
        return false;
    }
    engine_.reply(Flushed{engine_.run()});
    return true;
}

bool BarrierPeer::local(const member::Held &) {
    if (!pass(State::holding, State::held)) {
        return false;
    }
    engine_.reply(Held{engine_.run()});
    return true;
}

bool BarrierPeer::local(const member::Switched &e) {
    if (!pass(State::switching, State::switched)) {
        return false;
    }
    engine_.reply(Switched{engine_.run(), e.hold});
    return true;
}

bool BarrierPeer::local(const member::FullFin &e) {
    if (state_ != State::switched && state_ != State::copying) {
        return false;
    }
    report_ = e.report;
    standstill_.end(); // no file is waited for any more
    promise();
    return true;
}

bool BarrierPeer::local(const member::Beat &) {
    standstill_.beat(engine_.now_us());
    return true;
}

void BarrierPeer::promise() {
    if (state_ == State::copying && report_) {
        state_ = State::promised;
        engine_.reply(FullSnapFin{engine_.run(), std::move(*report_)});
    }
}

void BarrierPeer::tick() {
    if (standstill_.tick(engine_.now_us())) {
        engine_.fail(Standstill::reason());
    }
}

} // namespace

std::unique_ptr<PeerRun> make_barrier_peer(const Message &opening, PeerEngine &engine) {
    const auto &prepare = std::get<PrepareBarrier>(opening);
    check_place(prepare.tag, prepare.directory);
    return std::make_unique<BarrierPeer>(prepare, engine);
}

} // namespace hotsnap::cluster
