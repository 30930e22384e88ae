// SPDX-License-Identifier: GPL-2.0-or-later
// What the two roles ask for. The coordinator implements both; so can a test.
#ifndef HOTSNAP_ACTIONS_H
#define HOTSNAP_ACTIONS_H

#include <cstddef>
#include <string>

#include "hotsnap/coordinator.h"
#include "wire/messages.h"

namespace hotsnap::cluster {

inline constexpr uint64_t never = UINT64_MAX;

// Work for, and words to, the user of this member: HS_DO_PREPARE and later, HS_SAY_*.
class LocalOutlet {
  public:
    virtual void act(hs_action_kind kind, std::string text, bool failed = false) = 0;

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
    virtual void connect(size_t member) = 0; // -> member_up or member_down
    virtual void send(size_t member, const Message &message) = 0;
    // To all in `members`; the message is encoded once.
    virtual void broadcast(const std::vector<size_t> &members, const Message &message) = 0;
    virtual void disconnect(size_t member) = 0; // after what was sent

  protected:
    ~InitiatorOutlet() = default;
};

} // namespace hotsnap::cluster
#endif
