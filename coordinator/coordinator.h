// SPDX-License-Identifier: GPL-2.0-or-later
// One member: its links, its peer role, and its initiator role while it leads a run. Routes events
// and messages between them; hotsnap/coordinator.h holds the contract.
#ifndef HOTSNAP_COORDINATOR_COORDINATOR_H
#define HOTSNAP_COORDINATOR_COORDINATOR_H

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>

#include "actions.h"
#include "initiator.h"
#include "peer.h"
#include "wire/framing.h"

namespace hotsnap::cluster {

struct Action {
    hs_action_kind kind;
    hs_link link = 0;
    uint64_t deadline_us = 0;
    std::string text;
    std::shared_ptr<const std::string> data; // shared by the sends of a broadcast
    bool failed = false;
};

class Coordinator final : private PeerOutlet, private InitiatorOutlet {
  public:
    explicit Coordinator(std::string name);

    // Throws BadInput when one is on already, or on a bad request.
    void initiate(Request::Kind kind, const Json &request, uint64_t now_us);
    void cancel(const std::string &reason, uint64_t now_us);

    void link_up(hs_link link, bool inbound, const std::string &address, uint64_t now_us);
    void link_down(hs_link link, const std::string &address, const std::string &reason,
                   uint64_t now_us);
    void bytes(hs_link link, std::span<const uint8_t> data, uint64_t now_us);
    void tick(uint64_t now_us);
    void local(hs_local_kind kind, const char *json, uint64_t now_us);

    // After an error inside: ends what is on here.
    void give_up(const std::string &reason, uint64_t now_us);

    std::optional<Action> next_action();
    Json status() const;

  private:
    struct Link {
        bool inbound = false;
        std::string address;
        std::string name; // of the other member; empty until its HELLO
        wire::Decoder decoder;
        uint64_t hello_deadline_us = never;
        std::optional<size_t> member; // in the run of initiator_, outbound links only
    };

    // PeerOutlet, InitiatorOutlet
    void act(hs_action_kind kind, std::string text, bool failed = false) override;
    void reply(hs_link link, Message message) override;
    void close_link(hs_link link) override;
    void connect(size_t member) override;
    void send(size_t member, const Message &message) override;
    void broadcast(const std::vector<size_t> &members, const Message &message) override;
    void disconnect(size_t member) override;

    void on_message(hs_link id, const std::string &text);
    void on_hello(hs_link id, const Hello &hello);
    // Gives the link up: the other side is told why, and who used it is too.
    void drop(hs_link id, const std::string &reason);
    void on_down(Link link, hs_link id, const std::string &reason);
    Link forget(std::map<hs_link, Link>::iterator at);
    void send_on(hs_link id, const Message &message);
    std::shared_ptr<const std::string> encoded(const Message &message, std::string &error) const;
    std::optional<size_t> member_at(const std::string &address) const;

    void advance(uint64_t now_us) { now_us_ = std::max(now_us_, now_us); }
    void settle(); // after each event: delivers own messages, drops a finished run, sets the timer

    const std::string name_;
    uint64_t now_us_ = 0;
    uint64_t runs_ = 0;
    Peer peer_;
    std::unique_ptr<Initiator> initiator_;
    std::map<hs_link, Link> links_;
    std::set<std::pair<uint64_t, hs_link>> hello_waits_;
    std::vector<hs_link> member_links_;      // of the run, 0 = none (yet, or any more)
    std::map<std::string, size_t> connects_; // HS_DO_CONNECTs without an answer, by address
    std::deque<Message> to_own_peer_, to_own_initiator_;
    std::deque<Action> actions_;
    std::optional<Action> finished_; // HS_SAY_FINISHED, held back
    uint64_t timer_us_ = never;      // as last asked for
};

} // namespace hotsnap::cluster
#endif
