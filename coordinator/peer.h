// SPDX-License-Identifier: GPL-2.0-or-later
// The part of a member in a run, whichever member leads it: the run's peer half gives the local
// work and reports (run.h); this engine begins and ends the half, sends signs of life and watches
// for those of the initiator. One run at a time. It knows no run:
//
//   idle --opening message--> states of the peer half --> idle
//   any state --ABORT, a local failure, the initiator lost--> aborting --member::Aborted--> idle
#ifndef HOTSNAP_COORDINATOR_PEER_H
#define HOTSNAP_COORDINATOR_PEER_H

#include <span>
#include <string>

#include "actions.h"
#include "run.h"

namespace hotsnap::cluster {

class Peer final : private PeerEngine {
  public:
    Peer(std::string self, PeerOutlet &out, std::span<const PeerRunKind> kinds)
        : self_(std::move(self)), out_(out), kinds_(kinds) {}

    // Events. `link` is the one that brought the message, `initiator` the name at its other end.
    void on_message(hs_link link, const std::string &initiator, const Message &message,
                    uint64_t now_us);
    void on_local(const member::LocalEvent &event, uint64_t now_us);
    void on_link_down(hs_link link, const std::string &reason, uint64_t now_us);
    void tick(uint64_t now_us);

    uint64_t deadline() const;
    bool busy() const { return half_ != nullptr; }
    // "the snapshot 't1' of initiator 'db' runs here"
    std::string occupation() const;
    uint64_t ignored_events() const { return ignored_; }
    void ignore_event() { ignored_++; }
    Json status() const;

  private:
    // PeerEngine
    const std::string &self() const override { return self_; }
    const std::string &run() const override { return run_; }
    const std::string &initiator() const override { return initiator_; }
    bool leads() const override { return link_ == 0; }
    bool initiator_is_lost() const override { return !link_alive_; }
    uint64_t now_us() const override { return now_us_; }
    uint64_t last_epoch() const override { return last_epoch_; }
    bool use_epoch(uint64_t epoch) override;
    void reply(Message message) override;
    void work(member::LocalWork work) override { out_.work(std::move(work)); }
    void say_phase(const char *phase) override;
    void fail(const std::string &reason) override;
    void keep(const char *phase) override;
    void keep_in_doubt() override;

    void on_event(uint64_t now_us);
    const PeerRunKind *opened_by(const Message &message) const;
    void begin(const PeerRunKind &kind, hs_link link, const std::string &initiator,
               const Message &opening);
    void on_foreign(hs_link link, const Message &message); // of another run
    void on_progress(const member::Progress &progress);
    void on_aborted(const member::Aborted &aborted);
    void begin_abort(const std::string &reason);
    void lost_initiator(const std::string &reason);
    void finish(const char *phase);

    bool in_half() const { return half_ && !aborting_; }
    const char *state_name() const { return aborting_ ? "aborting" : half_->state().name; }
    const char *role() const { return link_ == 0 ? "initiator" : "peer"; }
    uint64_t heartbeat_us() const;
    uint64_t silence_us() const;
    void send_progress();

    const std::string self_;
    PeerOutlet &out_;
    const std::span<const PeerRunKind> kinds_;
    uint64_t now_us_ = 0;
    uint64_t last_epoch_ = 0;
    uint64_t ignored_ = 0;
    Json last_ = Json::object(); // how the last run ended, for the status

    std::unique_ptr<PeerRun> half_; // none: idle
    std::unique_ptr<PeerRun> over_; // ended within this event, and may still be executing
    // The run; meaningless when idle.
    hs_link link_ = 0;
    bool link_alive_ = false;
    bool aborting_ = false;
    std::string initiator_;
    std::string run_;
    std::string phase_;
    std::string reason_; // of the abort, or of the doubt
    uint64_t done_ = 0, total_ = 0, expected_us_ = 0;
    uint64_t heard_us_ = 0;
    uint64_t progress_sent_us_ = 0;
};

} // namespace hotsnap::cluster
#endif
