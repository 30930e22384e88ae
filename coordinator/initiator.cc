// SPDX-License-Identifier: GPL-2.0-or-later
#include "initiator.h"

#include <algorithm>

namespace hotsnap::cluster {

namespace {

std::string duration(uint64_t us) {
    return us % 1'000'000 == 0 ? std::to_string(us / 1'000'000) + " s"
                               : std::to_string(us / 1000) + " ms";
}

} // namespace

Initiator::Initiator(Request request, std::string run, InitiatorOutlet &out, MakeInitiatorRun make)
    : request_(std::move(request)), run_(std::move(run)), out_(out),
      half_(make(static_cast<InitiatorEngine &>(*this))), stages_(half_->stages()),
      participants_(request_.members.size()) {}

void Initiator::start(uint64_t now_us) {
    now_us_ = now_us;
    heartbeat_deadline_ = after(now_us, request_.heartbeat_us);
    enter(0);
    for (size_t i = 0; i < participants_.size(); i++) {
        if (i != request_.self) {
            out_.connect(i);
        }
    }
    on_member_up(request_.self, now_us);
}

// Connections.

void Initiator::on_member_up(size_t member, uint64_t now_us) {
    now_us_ = now_us;
    Participant &participant = participants_[member];
    if (participant.up || participant.gone || !in_stage() || stage_ != 0) {
        return;
    }
    participant.up = true;
    participant.heard_us = now_us;
    out_.send(member, half_->opening());
}

bool Initiator::is_complete(size_t member) const {
    switch (stage().loss) {
    case Loss::aborts:
        return false;
    case Loss::aborts_unless_answered:
        return participants_[member].answered;
    case Loss::is_noted:
        return true;
    }
    return false;
}

void Initiator::on_member_down(size_t member, const std::string &reason, uint64_t now_us) {
    now_us_ = now_us;
    Participant &participant = participants_[member];
    if (participant.gone || done()) {
        return;
    }
    const bool was_up = participant.up;
    participant.up = false;
    participant.gone = true;
    if (at_ == At::abort) {
        answered(member); // a lost member undoes its part alone
    } else if (is_complete(member)) {
        warn(describe(member) + " was lost (" + reason +
             ") after its part was complete; its files are kept");
    } else {
        abort((was_up ? "lost " : "cannot reach ") + describe(member) +
              (was_up ? "" : " at " + request_.members[member].address) + ": " + reason);
    }
}

// Stages.

void Initiator::open_barrier() {
    unanswered_ = 0;
    for (Participant &participant : participants_) {
        participant.answered = participant.gone;
        unanswered_ += !participant.answered;
    }
}

void Initiator::enter(size_t index) {
    stage_ = index;
    open_barrier();
    if (stage().silence_counts) { // from the entry on
        for (Participant &participant : participants_) {
            participant.heard_us = now_us_;
        }
    }
    const bool endless = stage().deadline_us == 0 && !stage().waits;
    stage_deadline_ = endless ? never : after(now_us_, stage().deadline_us);
    if (stage().phase) {
        say_phase(stage().phase);
    }
    if (stage().begin) {
        stage().begin();
    }
    if (stage().waits) {
        tick(now_us_); // the stage may wait for no time at all
    }
}

void Initiator::next_stage() {
    if (stage_ + 1 == stages_.size()) {
        succeed();
        return;
    }
    const Stage &next = stages_[stage_ + 1];
    const std::string reason = next.check ? next.check() : std::string();
    if (reason.empty()) {
        enter(stage_ + 1);
    } else {
        abort(reason);
    }
}

void Initiator::answered(size_t member) {
    if (!participants_[member].answered) {
        participants_[member].answered = true;
        if (--unanswered_ == 0) {
            pass_barrier();
        }
    }
}

void Initiator::pass_barrier() {
    if (at_ == At::abort) {
        finish(reason_, true);
    } else if (in_stage() && stage().answer.type) {
        next_stage();
    }
}

bool Initiator::on_local(const member::LocalEvent &event, uint64_t now_us) {
    now_us_ = now_us;
    if (!in_stage() || !stage().decided_by) {
        return false;
    }
    if (stage().decided_by(event)) {
        next_stage();
        return true;
    }
    // This member's own part is complete by now: it is the deciding step that failed.
    if (const auto *failed = std::get_if<member::Failed>(&event)) {
        abort(stage().failure + (failed->error.empty() ? "no reason" : failed->error));
        return true;
    }
    return false;
}

void Initiator::cancel(const std::string &reason, uint64_t now_us) {
    if (in_stage() && stage().cancels) {
        fail("cancelled: " + reason, now_us);
    }
}

void Initiator::set_duration(uint64_t duration_us, uint64_t now_us) {
    now_us_ = now_us;
    if (!in_stage() || !stage().cancels) {
        throw BadInput("the run is ending; its duration cannot be changed any more");
    }
    half_->set_duration(duration_us);
}

void Initiator::fail(const std::string &reason, uint64_t now_us) {
    now_us_ = now_us;
    if (!is_closed()) {
        abort(reason);
    }
}

void Initiator::succeed() {
    broadcast(half_->closing());
    say_phase(half_->final_phase());
    Json result = half_->result();
    if (!log_.warnings.empty()) {
        result["warnings"] = log_.warnings;
    }
    finish(to_text(result), false);
}

void Initiator::abort(const std::string &reason) {
    reason_ = reason;
    at_ = At::abort;
    // A member that was not reached has nothing to undo.
    for (Participant &participant : participants_) {
        participant.gone |= !participant.up;
    }
    open_barrier();
    stage_deadline_ = after(now_us_, request_.abort_timeout_us);
    say_phase("aborting");
    broadcast(Abort{run_, reason});
}

void Initiator::finish(const std::string &text, bool failed) {
    std::string full_text = text;
    if (failed) {
        for (const std::string &warning : log_.warnings) {
            full_text += "; " + warning;
        }
        reason_ = full_text;
        say_phase("aborted");
    }
    at_ = At::done;
    stage_deadline_ = heartbeat_deadline_ = never;
    for (size_t i = 0; i < participants_.size(); i++) {
        if (i != request_.self) {
            out_.disconnect(i);
        }
    }
    out_.say(HS_SAY_FINISHED, full_text, failed);
}

// Timers.

uint64_t Initiator::deadline() const {
    return std::min(stage_deadline_, heartbeat_deadline_);
}

void Initiator::tick(uint64_t now_us) {
    now_us_ = now_us;
    if (done()) {
        return;
    }
    if (now_us >= heartbeat_deadline_) {
        heartbeat_deadline_ = after(now_us, request_.heartbeat_us);
        broadcast(Heartbeat{run_});
        check_silence();
    }
    if (now_us < stage_deadline_) {
        return;
    }
    stage_deadline_ = never;
    if (at_ == At::abort) {
        warn(silent_members() + " did not confirm in " + duration(request_.abort_timeout_us) +
             " that all is undone");
        finish(reason_, true);
    } else if (stage().waits) {
        next_stage();
    } else {
        abort("timeout in phase " + std::string(phase_) + ": no answer from " + silent_members() +
              " within " + duration(stage().deadline_us));
    }
}

void Initiator::check_silence() {
    if (!in_stage() || !stage().silence_counts) {
        return; // the other stages have deadlines
    }
    for (size_t i = 0; i < participants_.size(); i++) {
        const Participant &participant = participants_[i];
        if (i != request_.self && !participant.answered &&
            now_us_ >= after(participant.heard_us, request_.silence_us)) {
            abort(describe(i) + " does not answer: it said nothing for " +
                  duration(request_.silence_us));
            return;
        }
    }
}

std::string Initiator::silent_members() const {
    constexpr size_t most_named = 5;
    std::string names;
    size_t count = 0;
    for (size_t i = 0; i < participants_.size(); i++) {
        if (!participants_[i].answered && count++ < most_named) {
            names += (names.empty() ? "" : ", ") + describe(i);
        }
    }
    if (count > most_named) {
        names += " and " + std::to_string(count - most_named) + " more";
    }
    return names;
}

} // namespace hotsnap::cluster
