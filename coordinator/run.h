// SPDX-License-Identifier: GPL-2.0-or-later
// A run (a cluster snapshot, a restore), as the two engines that carry it out see it.
//
// A run has two halves. The initiator's half is a table of stages, carried out by the Initiator; it
// lives in the member that leads. The peer's half is an object with states of its own, carried out
// by the Peer; it lives in every member. The engines hold the common parts of all runs: connecting,
// barriers, deadlines, signs of life, the abort, the loss of a member or of the initiator, the
// reports to the user. They know no run. runs.h lists the runs.
#ifndef HOTSNAP_COORDINATOR_RUN_H
#define HOTSNAP_COORDINATOR_RUN_H

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "deadline.h"
#include "member/work.h"
#include "wire/messages.h"
#include "wire/request.h"
#include "wire/run_log.h"

namespace hotsnap::cluster {

// The initiator's half.

// The effect of a member's loss on the run.
enum class Loss : uint8_t {
    aborts,
    aborts_unless_answered, // the answer says that the member's part is complete: then a warning
    is_noted,               // all parts are complete: a warning
};

// The message with which a member answers a stage.
struct Answer {
    const char *type = nullptr; // none: no message ends the stage
    // Keeps the message's contents. Returns why the run must be aborted, or nothing.
    std::function<std::string(size_t member, const Message &message)> take = {};
};

template <typename M> Answer answer() {
    return {M::type};
}
template <typename M, typename Take> Answer answer(Take take) {
    return {M::type, [take](size_t member, const Message &message) -> std::string {
                return take(member, std::get<M>(message));
            }};
}

// A stage is a barrier: it ends when every member has answered. Then the next one begins, and after
// the last one the run has succeeded.
struct Stage {
    const char *phase = nullptr; // told to the user on entry; none: a part of the phase before
    // Called before the entry. Returns why the run must be aborted instead, or nothing.
    std::function<std::string()> check = {};
    // On entry: sends the message that the members answer. The first stage has none: each member
    // gets the run's opening() as soon as it is connected.
    std::function<void()> begin = {};
    Answer answer = {};
    uint64_t deadline_us = 0;    // from the entry; then the run is aborted; 0: none
    bool silence_counts = false; // a member that says nothing for long is taken for dead
    Loss loss = Loss::aborts;
    bool completes = false; // the answer completes the member's progress
    bool cancels = true;    // the user can cancel the run here
    // No barrier: ends at the deadline (0: at once), or with the first answer to the next stage.
    bool waits = false;
    // No barrier: ends with an answer of this member's own machine, which decides the run. Nothing
    // else can end the stage. `failure` begins the reason when the machine fails.
    bool (*decided_by)(const member::LocalEvent &event) = nullptr;
    const char *failure = "";
};

// The engine, as an initiator's half sees it.
class InitiatorEngine {
  public:
    virtual const Request &request() const = 0;
    virtual const std::string &run() const = 0; // its name, for ever and on all members
    virtual const RunLog &log() const = 0;
    virtual uint64_t now_us() const = 0;
    virtual void warn(std::string warning) = 0;            // in the result, and beside an error
    virtual std::string describe(size_t member) const = 0; // "member 'db'"
    virtual void send(size_t member, const Message &message) = 0;
    virtual void broadcast(const Message &message) = 0; // to all members that are connected
    virtual void work(member::LocalWork work) = 0;

  protected:
    ~InitiatorEngine() = default;
};

class InitiatorRun {
  public:
    InitiatorRun() = default;
    InitiatorRun(const InitiatorRun &) = delete;
    InitiatorRun &operator=(const InitiatorRun &) = delete;
    virtual ~InitiatorRun() = default;

    virtual std::vector<Stage> stages() = 0; // one at least; called once
    virtual Message opening() const = 0;
    // After the last stage: the message to all, the phase, and the result of the command.
    virtual Message closing() const = 0;
    virtual const char *final_phase() const = 0;
    virtual Json result() const = 0;
    virtual uint64_t epoch() const { return 0; } // 0: none, or not known yet
    // A member's news of its copy. Returns why the run must be aborted, or nothing.
    virtual std::string on_progress(size_t, const Progress &) { return {}; }
    // The user gives the run another duration (0: none). Throws BadInput when it has none to give.
    virtual void set_duration(uint64_t) {
        throw BadInput("this run has no duration that could be changed");
    }
};

using MakeInitiatorRun = std::unique_ptr<InitiatorRun> (*)(InitiatorEngine &engine);

// The peer's half.

// A peer's reaction, in a state, to the loss of its initiator.
enum class Alone : uint8_t {
    aborts,
    keeps,   // in doubt: the initiator may have decided for the run
    goes_on, // until the local work ends, then keeps (PeerEngine::initiator_is_lost())
};

// A peer's reaction, in a state, to a failure of its local work.
enum class Failing : uint8_t {
    refuses, // the run, and undoes its part
    aborts,  // the run, and undoes its part
    tells,   // the initiator, which decides
};

struct PeerState {
    const char *name;
    Alone alone = Alone::aborts;
    Failing failing = Failing::aborts;
};

// The engine, as a peer's half sees it.
class PeerEngine {
  public:
    virtual const std::string &self() const = 0; // name of this member
    virtual const std::string &run() const = 0;
    virtual const std::string &initiator() const = 0;
    virtual bool leads() const = 0; // this member is the initiator
    virtual bool initiator_is_lost() const = 0;
    virtual uint64_t now_us() const = 0;
    virtual uint64_t last_epoch() const = 0; // the last one that this member has used
    // Fails the run, and returns false, unless the epoch is newer than the last one.
    virtual bool use_epoch(uint64_t epoch) = 0;
    virtual void reply(Message message) = 0; // to the initiator, if it is not lost
    virtual void work(member::LocalWork work) = 0;
    virtual void say_phase(const char *phase) = 0;
    // These end this member's part of the run; its half is not called any more.
    virtual void fail(const std::string &reason) = 0;
    virtual void keep(const char *phase) = 0;
    virtual void keep_in_doubt() = 0;

  protected:
    ~PeerEngine() = default;
};

class PeerRun {
  public:
    PeerRun() = default;
    PeerRun(const PeerRun &) = delete;
    PeerRun &operator=(const PeerRun &) = delete;
    virtual ~PeerRun() = default;

    virtual void begin() = 0;
    // False when the input is not due in this state; nothing has been done then. The engine handles
    // HEARTBEAT and ABORT, member::Progress, Aborted and Failed itself.
    virtual bool on_message(const Message &message) = 0;
    virtual bool on_local(const member::LocalEvent &event) = 0;
    virtual uint64_t deadline() const { return never; }
    virtual void tick() {}

    virtual PeerState state() const = 0;
    virtual std::string title() const = 0; // "the snapshot 't1'"
    virtual std::string tag() const { return {}; }
    virtual uint64_t epoch() const { return 0; }
    virtual uint64_t heartbeat_us() const = 0; // as the initiator asks
    virtual uint64_t silence_us() const = 0;
};

struct PeerRunKind {
    bool (*opened_by)(const Message &message);
    // Throws BadInput when this member refuses. Does not call the engine yet.
    std::unique_ptr<PeerRun> (*make)(const Message &opening, PeerEngine &engine);
};

} // namespace hotsnap::cluster
#endif
