// SPDX-License-Identifier: GPL-2.0-or-later
// The actions that a member asks of its caller, and the outlets through which its two roles ask.
// The coordinator implements the outlets; a test can do so, too.
#ifndef HOTSNAP_COORDINATOR_ACTIONS_H
#define HOTSNAP_COORDINATOR_ACTIONS_H

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "deadline.h"
#include "hotsnap/coordinator.h"
#include "member/work.h"
#include "wire/messages.h"

namespace hotsnap::cluster {

struct Action {
    hs_action_kind kind;
    hs_link link = 0;
    uint64_t deadline_us = 0;
    std::string text = {};
    std::shared_ptr<const std::string> data = {}; // shared by the sends of a broadcast
    bool failed = false;
    std::optional<member::LocalWork> work = {}; // of HS_DO_WORK
};

// Work for this member's machine, and reports to its user (HS_SAY_*).
class LocalOutlet {
  public:
    virtual void work(member::LocalWork work) = 0;
    virtual void say(hs_action_kind kind, std::string text, bool failed = false) = 0;

  protected:
    ~LocalOutlet() = default;
};

// Link 0 leads to this member's own initiator.
class PeerOutlet : public LocalOutlet {
  public:
    virtual void reply(hs_link link, Message message) = 0;
    virtual void close_link(hs_link link) = 0;

  protected:
    ~PeerOutlet() = default;
};

// Members are numbered as in the initiator's list; one of them is this member itself.
class InitiatorOutlet : public LocalOutlet {
  public:
    virtual void connect(size_t member) = 0; // -> on_member_up or on_member_down
    virtual void send(size_t member, const Message &message) = 0;
    // To all in `members`; the message is encoded once.
    virtual void broadcast(const std::vector<size_t> &members, const Message &message) = 0;
    virtual void disconnect(size_t member) = 0; // after all that was sent to it

  protected:
    ~InitiatorOutlet() = default;
};

} // namespace hotsnap::cluster
#endif
