// SPDX-License-Identifier: GPL-2.0-or-later
#include "coordinator.h"

#include "runs.h"

namespace hotsnap::cluster {

Coordinator::Coordinator(std::string name)
    : name_(std::move(name)), links_(name_, static_cast<LinkUser &>(*this)),
      peer_(name_, static_cast<PeerOutlet &>(*this), peer_runs()) {
    if (!is_valid_name(name_)) {
        throw BadInput("member name '" + name_ + "' is not of the form " + name_form);
    }
}

// Commands of the user.

void Coordinator::initiate(Request::Kind kind, const Json &json, uint64_t now_us) {
    advance(now_us);
    if (peer_.busy()) {
        throw BadInput(peer_.occupation() + "; wait until it is over, or cancel it there");
    }
    if (initiator_) {
        throw BadInput("'" + initiator_->request().tag +
                       "' is still being undone on other "
                       "members; try again when it has finished");
    }
    Request request = Request::parse(kind, name_, json);
    // Unique without randomness: after a restart of this member the time is later.
    const std::string run = name_ + "/" + std::to_string(now_us_) + "/" + std::to_string(++runs_);
    links_.set_targets(request.members, request.self);
    initiator_ = std::make_unique<Initiator>(
        std::move(request), run, static_cast<InitiatorOutlet &>(*this), initiator_run(kind));
    initiator_->start(now_us_);
    after_event();
}

void Coordinator::cancel(const std::string &reason, uint64_t now_us) {
    advance(now_us);
    if (initiator_) {
        initiator_->cancel(reason, now_us_);
    }
    after_event();
}

void Coordinator::set_duration(uint64_t duration_us, uint64_t now_us) {
    advance(now_us);
    if (!initiator_ || initiator_->done()) {
        throw BadInput("this member leads no run; ask the member that does");
    }
    initiator_->set_duration(duration_us, now_us_);
    after_event();
}

// Events of the machine.

void Coordinator::local(const member::LocalEvent &event, uint64_t now_us) {
    advance(now_us);
    if (!initiator_ || !initiator_->on_local(event, now_us_)) {
        peer_.on_local(event, now_us_);
    }
    after_event();
}

// Links.

void Coordinator::link_up(hs_link id, bool inbound, const std::string &address, ProvedNames names,
                          uint64_t now_us) {
    advance(now_us);
    links_.up(id, inbound, address, std::move(names), now_us_);
    after_event();
}

void Coordinator::link_refused(hs_link id, bool inbound, const std::string &address,
                               const std::string &reason, uint64_t now_us) {
    advance(now_us);
    links_.refuse(id, inbound, address, reason);
    after_event();
}

void Coordinator::link_down(hs_link id, const std::string &address, const std::string &reason,
                            uint64_t now_us) {
    advance(now_us);
    links_.down(id, address, reason);
    after_event();
}

void Coordinator::bytes(hs_link id, std::span<const uint8_t> data, uint64_t now_us) {
    advance(now_us);
    links_.feed(id, data);
    while (links_.take_message(id)) {
        after_event();
    }
    after_event();
}

void Coordinator::on_inbound_message(hs_link id, const std::string &from, const Message &message) {
    peer_.on_message(id, from, message, now_us_);
}

void Coordinator::on_inbound_down(hs_link id, const std::string &reason) {
    peer_.on_link_down(id, reason, now_us_);
}

void Coordinator::on_target_up(size_t target) {
    if (initiator_) {
        initiator_->on_member_up(target, now_us_);
    }
}

void Coordinator::on_target_message(size_t target, const Message &message) {
    if (initiator_) {
        initiator_->on_message(target, message, now_us_);
    }
}

void Coordinator::on_target_down(size_t target, const std::string &reason) {
    if (initiator_) {
        initiator_->on_member_down(target, reason, now_us_);
    }
}

// Actions of the two roles.

void Coordinator::reply(hs_link id, Message message) {
    if (id == 0) {
        to_own_initiator_.push_back(std::move(message));
    } else if (links_.contains(id)) {
        links_.send(id, message);
    }
}

void Coordinator::close_link(hs_link id) {
    links_.close(id);
}

void Coordinator::connect(size_t member) {
    links_.connect(member);
}

void Coordinator::disconnect(size_t member) {
    links_.disconnect(member);
}

void Coordinator::send(size_t member, const Message &message) {
    broadcast({member}, message);
}

void Coordinator::broadcast(const std::vector<size_t> &members, const Message &message) {
    std::vector<size_t> others;
    for (const size_t member : members) {
        if (member == initiator_->request().self) {
            to_own_peer_.push_back(message);
        } else {
            others.push_back(member);
        }
    }
    const std::string error = links_.broadcast(others, message);
    if (!error.empty()) {
        to_own_initiator_.push_back(ErrorMessage{error});
    }
}

void Coordinator::work(member::LocalWork work) {
    emit({.kind = HS_DO_WORK, .work = std::move(work)});
}

void Coordinator::say(hs_action_kind kind, std::string text, bool failed) {
    Action action{.kind = kind, .text = std::move(text), .failed = failed};
    if (kind == HS_SAY_FINISHED) {
        finished_ = std::move(action);
    } else {
        emit(std::move(action));
    }
}

// After each event.

void Coordinator::after_event() {
    while (!to_own_peer_.empty() || !to_own_initiator_.empty()) {
        if (!to_own_peer_.empty()) {
            const Message message = std::move(to_own_peer_.front());
            to_own_peer_.pop_front();
            peer_.on_message(0, name_, message, now_us_);
        } else {
            const Message message = std::move(to_own_initiator_.front());
            to_own_initiator_.pop_front();
            if (initiator_) {
                initiator_->on_message(initiator_->request().self, message, now_us_);
            }
        }
    }
    if (initiator_ && initiator_->done()) {
        initiator_.reset();
        links_.clear_targets();
    }
    if (finished_) { // the last report of a run: this member's own part has ended, too
        emit(std::move(*finished_));
        finished_.reset();
    }
    uint64_t deadline = std::min(peer_.deadline(), links_.deadline());
    if (initiator_) {
        deadline = std::min(deadline, initiator_->deadline());
    }
    if (deadline != timer_us_) {
        timer_us_ = deadline;
        emit({.kind = HS_DO_TIMER, .deadline_us = deadline});
    }
}

void Coordinator::tick(uint64_t now_us) {
    advance(now_us);
    timer_us_ = never; // it has fired: the next one must be asked for anew
    links_.tick(now_us_);
    peer_.tick(now_us_);
    if (initiator_) {
        initiator_->tick(now_us_);
    }
    after_event();
}

void Coordinator::give_up(const std::string &reason, uint64_t now_us) {
    advance(now_us);
    if (initiator_) {
        initiator_->fail(reason, now_us_);
    }
    peer_.on_local(member::Failed{reason}, now_us_);
    after_event();
}

std::optional<Action> Coordinator::next_action() {
    if (actions_.empty()) {
        return std::nullopt;
    }
    std::optional<Action> action = std::move(actions_.front());
    actions_.pop_front();
    return action;
}

Json Coordinator::status() const {
    Json status = peer_.status();
    if (initiator_) {
        initiator_->add_status(status);
    }
    status["ignored_events"] = peer_.ignored_events();
    return status;
}

} // namespace hotsnap::cluster
