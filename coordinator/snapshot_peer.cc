// SPDX-License-Identifier: GPL-2.0-or-later
// The peer's half of a snapshot.
#include <algorithm>
#include <optional>

#include "snapshot_run.h"
#include "standstill.h"

namespace hotsnap::cluster {

namespace {

class SnapshotPeer final : public PeerRun {
  public:
    SnapshotPeer(Prepare opening, PeerEngine &engine)
        : engine_(engine), opening_(std::move(opening)) {}

    void begin() override;
    bool on_message(const Message &message) override {
        return std::visit([this](const auto &m) { return handle(m); }, message);
    }
    bool on_local(const member::LocalEvent &event) override {
        return std::visit([this](const auto &e) { return local(e); }, event);
    }
    uint64_t deadline() const override { return std::min(drain_deadline_, standstill_.deadline()); }
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
        precopying,
        installing,
        installed,
        listening,
        listened,
        arming,
        armed,
        cutting,
        cut,
        draining,
        closing,
        drained,
        copying,
        promised,
    };

    bool handle(const Precopy &m);
    bool handle(const Install &m);
    bool handle(const Listen &m);
    bool handle(const Arm &m);
    bool handle(const Snapshot &m);
    bool handle(const Retarget &m);
    bool handle(const AllTransientSnapFin &m);
    bool handle(const ColoringEnd &m);
    bool handle(const AllFullSnapFin &m);
    template <typename M> bool handle(const M &) { return false; } // not for a peer

    bool local(const member::Prepared &e);
    bool local(const member::Precopied &e);
    bool local(const member::Installed &e);
    bool local(const member::Heard &e);
    bool local(const member::Armed &e);
    bool local(const member::Cut &e);
    bool local(const member::ChannelsFin &e);
    bool local(const member::FullFin &e);
    bool local(const member::Beat &e);
    template <typename E> bool local(const E &) { return false; } // not of a snapshot

    bool in(std::initializer_list<State> states) const {
        return std::find(states.begin(), states.end(), state_) != states.end();
    }
    void pace(uint64_t finish_us);
    void promise(); // if this member's part is complete and coloring has ended

    PeerEngine &engine_;
    const Prepare opening_;
    State state_ = State::preparing;
    uint64_t epoch_ = 0;
    uint64_t asked_us_ = 0;      // when LISTEN came
    bool paced_ = false;         // a finish was given before
    std::optional<Json> report_; // of this member's part, once it is complete
    uint64_t drain_deadline_ = never;
    Standstill standstill_;
};

PeerState SnapshotPeer::state() const {
    switch (state_) {
    case State::preparing:
        return {"preparing", Alone::aborts, Failing::refuses};
    case State::prepared:
        return {"prepared"};
    case State::precopying:
        return {"precopying"};
    case State::installing:
        return {"installing"};
    case State::installed:
        return {"installed"};
    case State::listening:
        return {"listening"};
    case State::listened:
        return {"listened"};
    case State::arming:
        return {"arming"};
    case State::armed:
        return {"armed"};
    case State::cutting:
        return {"cutting"};
    case State::cut:
        return {"cut"};
    case State::draining:
        return {"draining"};
    case State::closing:
        return {"closing"};
    case State::drained:
        return {"drained"};
    case State::copying:
        return {"copying"};
    case State::promised: // a published bundle may refer to our files
        return {"promised", Alone::keeps, Failing::tells};
    }
    return {"?"};
}

// Messages of the initiator.

void SnapshotPeer::begin() {
    engine_.say_phase("prepare");
    engine_.work(member::PrepareWork{engine_.run(), opening_.tag, opening_.directory,
                                     engine_.initiator(), engine_.leads(), opening_.coloring,
                                     opening_.options});
}

bool SnapshotPeer::handle(const Precopy &) {
    if (state_ != State::prepared) {
        return false;
    }
    state_ = State::precopying;
    engine_.say_phase("precopy");
    engine_.work(member::PrecopyWork{});
    return true;
}

bool SnapshotPeer::handle(const Install &m) {
    if (state_ != State::prepared) {
        return false;
    }
    if (!engine_.use_epoch(m.epoch)) {
        return true;
    }
    epoch_ = m.epoch;
    state_ = State::installing;
    engine_.say_phase("install");
    engine_.work(member::InstallWork{epoch_, m.members});
    return true;
}

bool SnapshotPeer::handle(const Listen &) {
    if (state_ != State::installed) {
        return false;
    }
    state_ = State::listening;
    asked_us_ = engine_.now_us();
    engine_.work(member::ListenWork{});
    return true;
}

bool SnapshotPeer::handle(const Arm &m) {
    if (state_ != State::listened) {
        return false;
    }
    state_ = State::arming;
    engine_.say_phase("arm");
    pace(m.finish_us);
    engine_.work(member::ArmWork{});
    return true;
}

bool SnapshotPeer::handle(const Snapshot &m) {
    // Late when a red frame was faster: the cut is under way or done.
    if (!in({State::armed, State::cutting, State::cut})) {
        return false;
    }
    if (state_ == State::armed) {
        state_ = State::cutting;
        engine_.say_phase("snapshot");
        engine_.work(member::CutWork{});
    }
    pace(m.finish_us); // after the cut, which must not wait
    return true;
}

bool SnapshotPeer::handle(const Retarget &m) {
    if (!in({State::cutting, State::cut, State::draining, State::closing, State::drained,
             State::copying, State::promised})) {
        return false;
    }
    pace(m.finish_us);
    return true;
}

void SnapshotPeer::pace(uint64_t finish_us) {
    if (finish_us == 0 && !paced_) {
        return;
    }
    paced_ = true;
    if (!report_ && state_ != State::promised) { // else the copy has ended
        engine_.work(member::PaceWork{finish_us});
    }
}

bool SnapshotPeer::handle(const AllTransientSnapFin &m) {
    if (state_ != State::cut) {
        return false;
    }
    state_ = State::draining;
    drain_deadline_ = after(engine_.now_us(), opening_.drain_us);
    engine_.work(member::ExpectWork{m.expected, m.marks});
    return true;
}

bool SnapshotPeer::handle(const ColoringEnd &) {
    if (state_ != State::drained) {
        return false;
    }
    state_ = State::copying;
    engine_.say_phase("full");
    engine_.work(member::EndColoringWork{});
    promise();
    return true;
}

bool SnapshotPeer::handle(const AllFullSnapFin &) {
    if (state_ != State::promised) {
        return false;
    }
    engine_.keep("committed");
    return true;
}

// Answers of the machine.

bool SnapshotPeer::local(const member::Prepared &e) {
    if (state_ != State::preparing) {
        return false;
    }
    state_ = State::prepared;
    engine_.reply(Prepared{engine_.run(), engine_.last_epoch(), e.nics, e.info});
    return true;
}

bool SnapshotPeer::local(const member::Precopied &e) {
    if (state_ != State::precopying) {
        return false;
    }
    state_ = State::prepared;
    engine_.reply(Precopied{engine_.run(), e.converged, e.left});
    return true;
}

bool SnapshotPeer::local(const member::Installed &) {
    if (state_ != State::installing) {
        return false;
    }
    state_ = State::installed;
    engine_.reply(Installed{engine_.run()});
    return true;
}

bool SnapshotPeer::local(const member::Heard &e) {
    if (state_ != State::listening) {
        return false;
    }
    state_ = State::listened;
    engine_.reply(Heard{engine_.run(), e.heard, asked_us_, engine_.now_us()});
    return true;
}

bool SnapshotPeer::local(const member::Armed &) {
    if (state_ != State::arming) {
        return false;
    }
    state_ = State::armed;
    standstill_.pause();
    engine_.reply(Armed{engine_.run()});
    return true;
}

bool SnapshotPeer::local(const member::Cut &e) {
    if (!in({State::armed, State::cutting})) {
        return false;
    }
    if (state_ == State::armed) {
        engine_.say_phase("snapshot");
    }
    state_ = State::cut;
    engine_.reply(TransientSnapFin{engine_.run(), e.white_sent, e.heard, e.pause, e.cause});
    engine_.say_phase("transient-fin");
    return true;
}

bool SnapshotPeer::local(const member::ChannelsFin &e) {
    if (!in({State::draining, State::closing})) {
        return false;
    }
    drain_deadline_ = never;
    state_ = State::drained;
    engine_.reply(ChannelsFin{engine_.run(), e.recorded, e.lost, e.unmarked, e.unexpected});
    return true;
}

bool SnapshotPeer::local(const member::FullFin &e) {
    if (!in({State::cut, State::draining, State::closing, State::drained, State::copying})) {
        return false;
    }
    report_ = e.report;
    standstill_.end(); // no page is trapped any more
    promise();
    return true;
}

bool SnapshotPeer::local(const member::Beat &) {
    if (in({State::armed, State::cutting})) {
        standstill_.pause(); // the cut has the main loop to itself, however long it takes
    } else {
        standstill_.beat(engine_.now_us());
    }
    return true;
}

void SnapshotPeer::promise() {
    if (state_ == State::copying && report_) {
        state_ = State::promised;
        engine_.reply(FullSnapFin{engine_.run(), std::move(*report_)});
    }
}

void SnapshotPeer::tick() {
    if (engine_.now_us() >= drain_deadline_) {
        drain_deadline_ = never;
        state_ = State::closing;
        engine_.work(member::CloseChannelsWork{});
    }
    if (standstill_.tick(engine_.now_us())) {
        engine_.fail(Standstill::reason());
    }
}

} // namespace

std::unique_ptr<PeerRun> make_snapshot_peer(const Message &opening, PeerEngine &engine) {
    const auto &prepare = std::get<Prepare>(opening);
    check_place(prepare.tag, prepare.directory);
    return std::make_unique<SnapshotPeer>(prepare, engine);
}

} // namespace hotsnap::cluster
