// SPDX-License-Identifier: GPL-2.0-or-later
// The connections: the HELLO on each, messages from bytes and back, and the drop of those that
// brought bad input. Inbound connections come from the initiators of other members; outbound ones
// lead to the targets of the run that this member leads.
#ifndef HOTSNAP_COORDINATOR_LINKS_H
#define HOTSNAP_COORDINATOR_LINKS_H

#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "actions.h"
#include "wire/framing.h"
#include "wire/request.h"

namespace hotsnap::cluster {

// What the other side of a connection is proved to be; nothing when nobody has looked for a proof.
using ProvedNames = std::optional<std::vector<std::string>>;

// Takes the events of the links. A target is a member in the list of Links::set_targets().
class LinkUser {
  public:
    virtual void on_inbound_message(hs_link link, const std::string &from, const Message &) = 0;
    virtual void on_inbound_down(hs_link link, const std::string &reason) = 0;
    virtual void on_target_up(size_t target) = 0; // it has said HELLO
    virtual void on_target_message(size_t target, const Message &message) = 0;
    virtual void on_target_down(size_t target, const std::string &reason) = 0;
    virtual void on_ignored() = 0; // an event that makes no sense
    virtual void emit(Action action) = 0;

  protected:
    ~LinkUser() = default;
};

class Links {
  public:
    Links(std::string self, LinkUser &user) : self_(std::move(self)), user_(user) {}

    // The targets of the run that begins, or none. All outbound links have been closed before.
    void set_targets(std::vector<Request::Target> targets, size_t self);
    void clear_targets() { targets_.clear(); }
    void connect(size_t target);
    void disconnect(size_t target);

    // Events.
    void up(hs_link id, bool inbound, const std::string &address, ProvedNames names,
            uint64_t now_us);
    // A connection that is not to be up: both sides are told why.
    void refuse(hs_link id, bool inbound, const std::string &address, const std::string &reason);
    void down(hs_link id, const std::string &address, const std::string &reason);
    void feed(hs_link id, std::span<const uint8_t> data);
    // Handles one message of the bytes that were fed; to be called until it returns false. A
    // message may close this link, or any other.
    bool take_message(hs_link id);
    void tick(uint64_t now_us);
    uint64_t deadline() const;
    // The member that a connection to this address, still to be made, leads to; or null.
    const std::string *wants(const std::string &address) const {
        const std::optional<size_t> target = target_at(address);
        return target ? &targets_[*target].name : nullptr;
    }

    bool contains(hs_link id) const { return links_.contains(id); }
    void send(hs_link id, const Message &message);
    // To all of `targets` that are connected; the message is encoded once. Returns why it was sent
    // to none of them, or nothing.
    std::string broadcast(const std::vector<size_t> &targets, const Message &message);
    void close(hs_link id);

  private:
    struct Link {
        bool inbound = false;
        std::string address = {};
        std::string name = {}; // of the other member; empty until its HELLO
        ProvedNames proved = {};
        wire::Decoder decoder = {};
        uint64_t hello_deadline_us = never;
        std::optional<size_t> target = {}; // outbound links only
    };
    struct Target {
        std::string name;
        std::string address;
        hs_link link = 0; // 0: not connected yet, or not any more
    };
    using LinkMap = std::map<hs_link, Link>;

    void on_message(hs_link id, const std::string &text);
    void on_hello(hs_link id, const Hello &hello);
    // Gives the link up, and tells the reason to the other side and to the link's user here.
    void drop(hs_link id, const std::string &reason);
    void on_down(const Link &link, hs_link id, const std::string &reason);
    Link forget(LinkMap::iterator at);
    void connect_answered(const std::string &address);
    std::optional<size_t> target_at(const std::string &address) const;

    const std::string self_;
    LinkUser &user_;
    LinkMap links_;
    std::set<std::pair<uint64_t, hs_link>> hello_waits_;
    std::vector<Target> targets_;
    size_t self_target_ = 0;                 // the target that is this member itself
    std::map<std::string, size_t> connects_; // HS_DO_CONNECTs without an answer, by address
};

} // namespace hotsnap::cluster
#endif
