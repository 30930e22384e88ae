// SPDX-License-Identifier: GPL-2.0-or-later
// The part of a member in a run (a cluster snapshot or restore), whoever initiated it: it does the
// local work and reports. One run at a time.
//
//   idle --PREPARE--> preparing > prepared --INSTALL--> installing > installed --ARM--> arming
//        > armed --SNAPSHOT or a red frame--> cutting > cut --ALL_TRANSIENT_SNAP_FIN--> draining
//        (> closing) > drained --COLORING_END--> copying > promised --ALL_FULL_SNAP_FIN--> idle
//
//   idle --RESTORE--> loading > loaded --START--> starting > started --RESTORED--> idle
//
// ">" is local work done and reported. FULL_SNAP_FIN is a promise: from then on only the initiator
// decides whether this member's files are needed.
//
//   before FULL_SNAP_FIN   initiator lost or local failure  -> abort alone
//   after it               initiator lost                   -> in doubt: keep all, VM runs on
//                          local failure                    -> tell the initiator, wait
//
// The promise waits for COLORING_END, also when this member's part is complete before. A member
// that is in doubt goes natural; had it promised while another still recorded, its frames, sent
// after its cut, would be taken there for channel state of a bundle that is published all the same.
#ifndef HOTSNAP_PEER_H
#define HOTSNAP_PEER_H

#include <initializer_list>
#include <optional>
#include <string>

#include "actions.h"

namespace hotsnap::cluster {

class Peer {
  public:
    enum class State : uint8_t {
        idle,
        preparing,
        prepared,
        installing,
        installed,
        arming,
        armed,
        cutting,
        cut,
        draining,
        closing,
        drained,
        copying,
        promised,
        loading,
        loaded,
        starting,
        started,
        aborting,
    };

    Peer(std::string self, PeerOutlet &out) : self_(std::move(self)), out_(out) {}

    // Events. `link` is where it came from, `initiator` the name at its other end.
    void on_message(hs_link link, const std::string &initiator, const Message &message,
                    uint64_t now_us);
    void on_local(hs_local_kind kind, const Json &json, uint64_t now_us);
    void on_link_down(hs_link link, const std::string &reason, uint64_t now_us);
    void tick(uint64_t now_us);

    uint64_t deadline() const;
    bool busy() const { return state_ != State::idle; }
    // "a snapshot 't1' of initiator 'db' runs here"
    std::string occupation() const;
    bool is_own_run() const { return busy() && link_ == 0; }
    uint64_t last_epoch() const { return last_epoch_; }
    uint64_t ignored_events() const { return ignored_; }
    void ignore_event() { ignored_++; }
    Json status() const;

  private:
    void handle(const Prepare &m);
    void handle(const Install &m);
    void handle(const Arm &m);
    void handle(const Snapshot &m);
    void handle(const AllTransientSnapFin &m);
    void handle(const ColoringEnd &m);
    void handle(const AllFullSnapFin &m);
    void handle(const Restore &m);
    void handle(const Start &m);
    void handle(const Restored &m);
    void handle(const Abort &m);
    void handle(const Heartbeat &m);
    template <typename M> void handle(const M &) { legal(M::type, {}); } // not for a peer
    void begin(hs_link link, const std::string &initiator, const std::string &run);
    bool in(std::initializer_list<State> states) const;
    // For a message in the wrong state: says so to the initiator.
    bool legal(const char *type, std::initializer_list<State> states);
    bool legal_local(std::initializer_list<State> states);

    void local_prepared(const Json &json);
    void local_cut(const Json &json);
    void promise(); // when our part is complete and coloring has ended
    void local_progress(const Json &json);
    void local_aborted(const Json &json);
    void fail(const std::string &reason);
    void begin_abort(const std::string &reason);
    void lost_initiator(const std::string &reason);
    void keep(const char *phase, bool in_doubt, const std::string &reason);
    void finish(const char *phase);

    void reply(Message message);
    void say_phase(const char *phase);
    std::string epoch_json() const;
    void send_progress();

    const std::string self_;
    PeerOutlet &out_;
    uint64_t now_us_ = 0;
    uint64_t last_epoch_ = 0;
    uint64_t ignored_ = 0;
    Json last_ = Json::object(); // how the last run ended, for the status

    State state_ = State::idle;
    // The run; meaningless when idle.
    hs_link link_ = 0;
    bool link_alive_ = false;
    std::string initiator_;
    std::string run_;
    std::string tag_;
    bool coloring_ = true;
    uint64_t epoch_ = 0;
    uint64_t drain_us_ = 0;
    uint64_t heartbeat_us_ = 0;
    uint64_t silence_us_ = 0;
    std::optional<Json> report_; // of our part, once it is complete
    std::string phase_;
    std::string reason_; // of the abort
    uint64_t done_ = 0, total_ = 0;
    uint64_t drain_deadline_ = never;
    uint64_t heard_us_ = 0;
    uint64_t progress_sent_us_ = 0;
};

const char *to_string(Peer::State state);

} // namespace hotsnap::cluster
#endif
