// SPDX-License-Identifier: GPL-2.0-or-later
// An initiator's handling of its members' messages, its own messages, and its status.
#include "initiator.h"

namespace hotsnap::cluster {

namespace {

constexpr uint64_t progress_interval_us = 100'000;

} // namespace

// Messages received.

void Initiator::on_message(size_t member, const Message &message, uint64_t now_us) {
    now_us_ = now_us;
    Participant &participant = participants_[member];
    if (!participant.up || done()) {
        return;
    }
    participant.heard_us = now_us;
    if (!std::holds_alternative<ErrorMessage>(message) && run_of(message) != run_) {
        return; // of an earlier run over the same link
    }
    std::visit(
        [&](const auto &m) {
            if constexpr (requires { handle(member, m); }) {
                handle(member, m);
            } else {
                on_answer(member, message);
            }
        },
        message);
}

void Initiator::on_answer(size_t member, const Message &message) {
    const std::string_view type = type_of(message);
    const bool waits = in_stage() && stage().waits && stage_ + 1 < stages_.size();
    const Answer *due = !in_stage() ? nullptr
                        : waits     ? &stages_[stage_ + 1].answer
                                    : &stage().answer;
    if (!due || !due->type || type != due->type || participants_[member].answered) {
        on_unexpected(member, type_of(message));
        return;
    }
    if (due->take) {
        const std::string reason = due->take(member, message);
        if (!reason.empty()) {
            abort(reason);
            return;
        }
    }
    if (waits) { // the member is ahead of the others: they shall follow
        next_stage();
        if (!in_stage()) {
            return;
        }
    }
    if (stage().completes) { // the member's last PROGRESS may have said less
        Participant &participant = participants_[member];
        done_bytes_ += participant.total - participant.done;
        participant.done = participant.total;
        say_progress(true);
    }
    answered(member);
}

void Initiator::on_unexpected(size_t member, const char *type) {
    if (!is_closed()) { // else it may have crossed a message of ours
        abort(describe(member) + " sent an unexpected " + type);
    }
}

void Initiator::handle(size_t member, const Refused &m) {
    if (in_stage() && stage_ == 0 && !participants_[member].answered) {
        abort(describe(member) + " refuses: " + m.reason);
    } else {
        on_unexpected(member, Refused::type);
    }
}

void Initiator::handle(size_t member, const Progress &m) {
    if (in_stage() && is_complete(member)) {
        return; // a sign of life
    }
    Participant &participant = participants_[member];
    done_bytes_ += m.done - participant.done; // modulo 2^64, as is the sum
    total_bytes_ += m.total - participant.total;
    participant.done = m.done;
    participant.total = m.total;
    say_progress(false);
    if (!is_closed()) {
        const std::string reason = half_->on_progress(member, m);
        if (!reason.empty()) {
            abort(reason);
        }
    }
}

void Initiator::handle(size_t member, const Abort &m) {
    if (!is_closed()) {
        abort(describe(member) + ": " + m.reason);
    }
}

void Initiator::handle(size_t member, const Aborted &m) {
    if (at_ == At::abort && !participants_[member].answered) {
        if (!m.error.empty()) {
            warn(describe(member) + " could not undo all: " + m.error);
        }
        answered(member);
    }
}

void Initiator::handle(size_t member, const ErrorMessage &m) {
    if (!is_closed()) {
        abort(describe(member) + " does not follow the protocol: " + m.reason);
    }
}

// Messages sent, and status.

std::string Initiator::describe(size_t member) const {
    return "member '" + request_.members[member].name + "'";
}

void Initiator::send(size_t member, const Message &message) {
    out_.send(member, message);
}

void Initiator::broadcast(const Message &message) {
    std::vector<size_t> reachable;
    for (size_t i = 0; i < participants_.size(); i++) {
        if (participants_[i].up) {
            reachable.push_back(i);
        }
    }
    out_.broadcast(reachable, message);
}

void Initiator::say_phase(const char *phase) {
    phase_ = phase;
    log_.timeline.push_back({phase, now_us_});
    out_.say(HS_SAY_PHASE, to_text({{"epoch", half_->epoch()},
                                    {"tag", request_.tag},
                                    {"role", "initiator"},
                                    {"phase", phase},
                                    {"reason", reason_}}));
}

void Initiator::warn(std::string warning) {
    out_.say(HS_SAY_WARNING,
             to_text({{"epoch", half_->epoch()}, {"tag", request_.tag}, {"message", warning}}));
    log_.warnings.push_back(std::move(warning));
}

void Initiator::say_progress(bool at_once) {
    if (at_once || now_us_ - progress_said_us_ >= progress_interval_us) {
        progress_said_us_ = now_us_;
        out_.say(HS_SAY_PROGRESS, to_text({{"done", done_bytes_}, {"total", total_bytes_}}));
    }
}

void Initiator::add_status(Json &status) const {
    Json members = Json::array();
    for (size_t i = 0; i < participants_.size(); i++) {
        const Participant &participant = participants_[i];
        const char *state = participant.gone       ? "lost"
                            : !participant.up      ? "connecting"
                            : participant.answered ? "waiting"
                                                   : phase_;
        members.push_back({{"name", request_.members[i].name},
                           {"address", request_.members[i].address},
                           {"state", state},
                           {"done", participant.done},
                           {"total", participant.total}});
    }
    status["role"] = "initiator";
    status["phase"] = phase_;
    status["epoch"] = half_->epoch();
    status["tag"] = request_.tag;
    status["initiator"] = request_.members[request_.self].name;
    status["reason"] = reason_;
    status["members"] = std::move(members);
}

} // namespace hotsnap::cluster
