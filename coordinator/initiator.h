// SPDX-License-Identifier: GPL-2.0-or-later
// The part of a member that leads one run over all members, itself included: barriers and the one
// decision. It lives as long as the run.
//
//   snapshot:  prepare | install | arm | settle | snapshot | drain | full | publish | done
//   restore:   load | start | done
//   any of them but publish and done may go to:  abort | done
//
// A stage ends when every member has answered it ("|" is a barrier), or in an abort: a refusal, a
// failure, a lost member, a deadline. The decision is HS_LOCAL_PUBLISHED: before it nothing exists
// under the bundle's name; after it all members' files are durable, and telling them is courtesy.
#ifndef HOTSNAP_INITIATOR_H
#define HOTSNAP_INITIATOR_H

#include <string>
#include <vector>

#include "actions.h"
#include "wire/manifest.h"
#include "wire/request.h"

namespace hotsnap::cluster {

class Initiator {
  public:
    enum class Stage : uint8_t {
        prepare,
        install,
        arm,
        settle,
        snapshot,
        drain,
        full,
        publish,
        load,
        start,
        abort,
        done,
    };

    // `run` names this run for ever, on all members.
    Initiator(Request request, std::string run, InitiatorOutlet &out);

    void start(uint64_t now_us);

    // Events.
    void on_member_up(size_t member, uint64_t now_us);
    void on_member_down(size_t member, const std::string &reason, uint64_t now_us);
    void on_message(size_t member, const Message &message, uint64_t now_us);
    void on_published(uint64_t now_us);
    void on_publish_failed(const std::string &reason, uint64_t now_us);
    void cancel(const std::string &reason, uint64_t now_us);
    void fail(const std::string &reason, uint64_t now_us); // of this process
    void tick(uint64_t now_us);

    uint64_t deadline() const;
    bool publishing() const { return stage_ == Stage::publish; }
    bool done() const { return stage_ == Stage::done; }
    const Request &request() const { return request_; }
    void add_status(Json &status) const;

  private:
    struct Link {
        bool up = false;       // PREPARE or RESTORE could be sent
        bool gone = false;     // was lost, or never came up
        bool answered = false; // this stage's barrier
        uint64_t heard_us = 0;
        uint64_t done = 0, total = 0;
    };

    void handle(size_t member, const Prepared &m);
    void handle(size_t member, const Refused &m);
    void handle(size_t member, const Installed &m);
    void handle(size_t member, const Armed &m);
    void handle(size_t member, const TransientSnapFin &m);
    void handle(size_t member, const ChannelsFin &m);
    void handle(size_t member, const FullSnapFin &m);
    void handle(size_t member, const Loaded &m);
    void handle(size_t member, const Started &m);
    void handle(size_t member, const Progress &m);
    void handle(size_t member, const Abort &m);
    void handle(size_t member, const Aborted &m);
    void handle(size_t member, const ErrorMessage &m);
    template <typename M> void handle(size_t member, const M &) { // not for an initiator
        legal(M::type, member, {});
    }
    // For a message in the wrong stage, or twice: ends the run, the member is not sane.
    bool legal(const char *type, size_t member, std::initializer_list<Stage> stages);

    void enter(Stage stage, const char *phase, uint64_t timeout_us);
    void answer(size_t member); // passes the barrier when it was the last
    void pass_barrier();
    void install();
    void expect();
    void succeed(const char *phase, Json result);
    void abort(const std::string &reason);
    void finish(const std::string &text, bool failed);
    void say_phase(const char *phase);
    void say_progress(bool at_once);
    void check_silence();
    void broadcast(const Message &message);
    std::string silent_members() const;
    std::string name(size_t member) const {
        return "member '" + request_.members[member].name + "'";
    }

    const Request request_;
    const std::string run_;
    InitiatorOutlet &out_;
    uint64_t now_us_ = 0;

    Stage stage_ = Stage::prepare;
    const char *phase_ = "prepare";
    std::vector<Link> links_; // parallel to request_.members
    RunRecord record_;        // what goes into the manifest
    MemberTable table_;
    size_t unanswered_ = 0;
    uint64_t stage_timeout_us_ = 0;
    uint64_t stage_deadline_ = never;
    uint64_t heartbeat_deadline_ = never;
    uint64_t progress_said_us_ = 0;
    uint64_t done_bytes_ = 0, total_bytes_ = 0;
    std::string reason_; // of the abort
};

} // namespace hotsnap::cluster
#endif
