// SPDX-License-Identifier: GPL-2.0-or-later
// The part of a member that leads one run over all members, itself included: it takes all of them
// from barrier to barrier, or undoes the run on all of them. It lives as long as the run.
//
// It knows no run: the stages come from the run's table (run.h). Two follow any of them:
//
//   stage | stage | ... | done
//   any stage but a deciding one may go to:  abort | done
//
// A stage ends when every member has answered it ("|" is a barrier), or in an abort: after a
// refusal, a failure, a lost member, a deadline, a message out of turn, or by the user.
#ifndef HOTSNAP_COORDINATOR_INITIATOR_H
#define HOTSNAP_COORDINATOR_INITIATOR_H

#include <string>
#include <vector>

#include "actions.h"
#include "run.h"

namespace hotsnap::cluster {

class Initiator final : private InitiatorEngine {
  public:
    // `run` names this run for ever, on all members.
    Initiator(Request request, std::string run, InitiatorOutlet &out, MakeInitiatorRun make);

    void start(uint64_t now_us);

    // Events.
    void on_member_up(size_t member, uint64_t now_us);
    void on_member_down(size_t member, const std::string &reason, uint64_t now_us);
    void on_message(size_t member, const Message &message, uint64_t now_us);
    // Of this member's own machine. False when the event is not for the initiator.
    bool on_local(const member::LocalEvent &event, uint64_t now_us);
    void cancel(const std::string &reason, uint64_t now_us);
    void set_duration(uint64_t duration_us, uint64_t now_us); // throws BadInput
    void fail(const std::string &reason, uint64_t now_us);    // of this process
    void tick(uint64_t now_us);

    uint64_t deadline() const;
    bool done() const { return at_ == At::done; }
    const Request &request() const override { return request_; }
    void add_status(Json &status) const;

  private:
    enum class At : uint8_t { stage, abort, done };

    struct Participant {
        bool up = false;       // the opening was sent to it
        bool gone = false;     // it was lost, or never came up
        bool answered = false; // it has answered this stage
        uint64_t heard_us = 0;
        uint64_t done = 0, total = 0;
    };

    // InitiatorEngine
    const std::string &run() const override { return run_; }
    const RunLog &log() const override { return log_; }
    uint64_t now_us() const override { return now_us_; }
    void warn(std::string warning) override;
    std::string describe(size_t member) const override;
    void send(size_t member, const Message &message) override;
    void broadcast(const Message &message) override;
    void work(member::LocalWork work) override { out_.work(std::move(work)); }

    void handle(size_t member, const Refused &m);
    void handle(size_t member, const Progress &m);
    void handle(size_t member, const Abort &m);
    void handle(size_t member, const Aborted &m);
    void handle(size_t member, const ErrorMessage &m);
    void on_answer(size_t member, const Message &message);
    // Ends the run: the member breaks the protocol.
    void on_unexpected(size_t member, const char *type);

    const Stage &stage() const { return stages_[stage_]; }
    bool in_stage() const { return at_ == At::stage; }
    // Neither members nor the user can end the run: it is over, being undone, or being decided.
    bool is_closed() const { return !in_stage() || stage().decided_by; }
    bool is_complete(size_t member) const; // the run needs the member no more, even if it is lost

    void enter(size_t stage);
    void open_barrier();
    void next_stage();
    void answered(size_t member); // passes the barrier after the last member's answer
    void pass_barrier();
    void succeed();
    void abort(const std::string &reason);
    void finish(const std::string &text, bool failed);
    void say_phase(const char *phase);
    void say_progress(bool at_once);
    void check_silence();
    std::string silent_members() const;

    const Request request_;
    const std::string run_;
    InitiatorOutlet &out_;
    const std::unique_ptr<InitiatorRun> half_;
    const std::vector<Stage> stages_;
    uint64_t now_us_ = 0;

    At at_ = At::stage;
    size_t stage_ = 0; // in stages_
    const char *phase_ = "";
    std::vector<Participant> participants_; // parallel to request_.members
    RunLog log_;
    size_t unanswered_ = 0;
    uint64_t stage_deadline_ = never;
    uint64_t heartbeat_deadline_ = never;
    uint64_t progress_said_us_ = 0;
    uint64_t done_bytes_ = 0, total_bytes_ = 0;
    std::string reason_; // of the abort
};

} // namespace hotsnap::cluster
#endif
