// SPDX-License-Identifier: GPL-2.0-or-later
// One member: its links, its peer role, and its initiator role while it leads a run. Routes events
// and messages between them; hotsnap/coordinator.h holds the contract.
#ifndef HOTSNAP_COORDINATOR_COORDINATOR_H
#define HOTSNAP_COORDINATOR_COORDINATOR_H

#include <algorithm>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "actions.h"
#include "initiator.h"
#include "links.h"
#include "peer.h"

namespace hotsnap::cluster {

class Coordinator final : private PeerOutlet, private InitiatorOutlet, private LinkUser {
  public:
    explicit Coordinator(std::string name);

    // Throws BadInput when a run is on already, or on a bad request.
    void initiate(Request::Kind kind, const Json &request, uint64_t now_us);
    void cancel(const std::string &reason, uint64_t now_us);
    void set_duration(uint64_t duration_us, uint64_t now_us); // throws BadInput

    void link_up(hs_link link, bool inbound, const std::string &address, ProvedNames names,
                 uint64_t now_us);
    void link_refused(hs_link link, bool inbound, const std::string &address,
                      const std::string &reason, uint64_t now_us);
    void link_down(hs_link link, const std::string &address, const std::string &reason,
                   uint64_t now_us);
    // The member for which the present run still waits for a connection to that address, or null.
    const std::string *wants(const std::string &address) const { return links_.wants(address); }
    void bytes(hs_link link, std::span<const uint8_t> data, uint64_t now_us);
    void tick(uint64_t now_us);
    void local(const member::LocalEvent &event, uint64_t now_us);

    // After an error inside: ends any run that is on here.
    void give_up(const std::string &reason, uint64_t now_us);

    std::optional<Action> next_action();
    Json status() const;

  private:
    // PeerOutlet, InitiatorOutlet
    void work(member::LocalWork work) override;
    void say(hs_action_kind kind, std::string text, bool failed = false) override;
    void reply(hs_link link, Message message) override;
    void close_link(hs_link link) override;
    void connect(size_t member) override;
    void send(size_t member, const Message &message) override;
    void broadcast(const std::vector<size_t> &members, const Message &message) override;
    void disconnect(size_t member) override;

    // LinkUser
    void on_inbound_message(hs_link link, const std::string &from, const Message &m) override;
    void on_inbound_down(hs_link link, const std::string &reason) override;
    void on_target_up(size_t target) override;
    void on_target_message(size_t target, const Message &message) override;
    void on_target_down(size_t target, const std::string &reason) override;
    void on_ignored() override { peer_.ignore_event(); }
    void emit(Action action) override { actions_.push_back(std::move(action)); }

    void advance(uint64_t now_us) { now_us_ = std::max(now_us_, now_us); }
    void after_event(); // delivers own messages, drops a finished run, sets the timer

    const std::string name_;
    uint64_t now_us_ = 0;
    uint64_t runs_ = 0;
    Links links_;
    Peer peer_;
    std::unique_ptr<Initiator> initiator_;
    std::deque<Message> to_own_peer_, to_own_initiator_;
    std::deque<Action> actions_;
    std::optional<Action> finished_; // HS_SAY_FINISHED, held back
    uint64_t timer_us_ = never;      // as last asked for
};

} // namespace hotsnap::cluster
#endif
