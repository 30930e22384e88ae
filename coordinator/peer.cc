// SPDX-License-Identifier: GPL-2.0-or-later
#include "peer.h"

#include <algorithm>

namespace hotsnap::cluster {

namespace {

constexpr uint64_t shortest_heartbeat_us = 10'000; // even if the initiator asks for less
constexpr uint64_t progress_interval_us = 200'000;

} // namespace

void Peer::on_event(uint64_t now_us) {
    now_us_ = now_us;
    over_.reset();
}

// Messages of the initiator.

void Peer::on_message(hs_link link, const std::string &initiator, const Message &message,
                      uint64_t now_us) {
    on_event(now_us);
    if (std::holds_alternative<ErrorMessage>(message)) {
        ignored_++; // never answered: two members must not answer each other forever
        return;
    }
    const bool ours = busy() && link == link_ && run_of(message) == run_;
    if (busy() && link == link_) {
        heard_us_ = now_us;
    }
    if (const PeerRunKind *kind = opened_by(message)) {
        begin(*kind, link, initiator, message);
    } else if (!ours) {
        on_foreign(link, message);
    } else if (const auto *abort = std::get_if<Abort>(&message)) {
        if (!aborting_) {
            begin_abort(abort->reason);
        }
    } else if (std::holds_alternative<Heartbeat>(message)) {
        return;
    } else if (aborting_) {
        ignored_++; // sent before the abort was known: it needs no answer
    } else if (const char *state = state_name(); !half_->on_message(message)) {
        ignored_++;
        reply(ErrorMessage{std::string(type_of(message)) + " is not expected by a member that is " +
                           state});
    }
}

const PeerRunKind *Peer::opened_by(const Message &message) const {
    for (const PeerRunKind &kind : kinds_) {
        if (kind.opened_by(message)) {
            return &kind;
        }
    }
    return nullptr;
}

void Peer::begin(const PeerRunKind &kind, hs_link link, const std::string &initiator,
                 const Message &opening) {
    if (busy()) {
        out_.reply(link, Refused{run_of(opening), occupation() + "; try again when it is over"});
        return;
    }
    try {
        half_ = kind.make(opening, static_cast<PeerEngine &>(*this));
    } catch (const BadInput &e) {
        ignored_++;
        out_.reply(link, Refused{run_of(opening), e.what()});
        return;
    }
    link_ = link;
    link_alive_ = true;
    aborting_ = false;
    initiator_ = initiator;
    run_ = run_of(opening);
    reason_.clear();
    done_ = total_ = expected_us_ = 0;
    heard_us_ = progress_sent_us_ = now_us_;
    half_->begin();
}

void Peer::on_foreign(hs_link link, const Message &message) {
    if (std::holds_alternative<Abort>(message)) {
        out_.reply(link, Aborted{run_of(message), ""}); // nothing of that run is left here
    } else if (!std::holds_alternative<Heartbeat>(message)) {
        ignored_++;
        out_.reply(link, ErrorMessage{std::string(type_of(message)) + ": run '" + run_of(message) +
                                      "' is not known here"});
    }
}

// Answers of this member's machine.

void Peer::on_local(const member::LocalEvent &event, uint64_t now_us) {
    on_event(now_us);
    if (const auto *progress = std::get_if<member::Progress>(&event)) {
        on_progress(*progress);
    } else if (const auto *aborted = std::get_if<member::Aborted>(&event)) {
        on_aborted(*aborted);
    } else if (const auto *failed = std::get_if<member::Failed>(&event)) {
        fail(failed->error.empty() ? "the local step failed without a reason" : failed->error);
    } else if (std::holds_alternative<member::Beat>(event)) {
        if (in_half()) { // a beat between runs is no error
            half_->on_local(event);
        }
    } else if (!in_half() || !half_->on_local(event)) {
        ignored_++;
    }
}

void Peer::on_progress(const member::Progress &progress) {
    if (!busy()) {
        ignored_++;
        return;
    }
    done_ = progress.done;
    total_ = progress.total;
    expected_us_ = progress.expected_us;
    if (now_us_ - progress_sent_us_ >= progress_interval_us) {
        send_progress();
    }
}

void Peer::on_aborted(const member::Aborted &aborted) {
    if (!aborting_) {
        ignored_++;
        return;
    }
    reply(Aborted{run_, aborted.error}); // the parts that could not be undone
    finish("aborted");
}

void Peer::fail(const std::string &reason) {
    if (!busy()) {
        ignored_++;
        return;
    }
    if (aborting_) {
        return; // the step was under way at the abort; member::Aborted is still due
    }
    const Failing failing = half_->state().failing;
    if (failing == Failing::refuses) {
        reply(Refused{run_, reason});
    } else {
        reply(Abort{run_, reason});
    }
    if (failing != Failing::tells) {
        begin_abort(reason);
    }
}

void Peer::begin_abort(const std::string &reason) {
    aborting_ = true;
    reason_ = reason;
    say_phase("aborting");
    out_.work(member::AbortWork{reason});
}

// Loss of the initiator, and the end of the run.

void Peer::on_link_down(hs_link link, const std::string &reason, uint64_t now_us) {
    on_event(now_us);
    if (busy() && link == link_ && link_alive_) {
        lost_initiator(reason);
    }
}

void Peer::lost_initiator(const std::string &reason) {
    link_alive_ = false;
    if (aborting_) {
        return;
    }
    const std::string text = "lost the initiator '" + initiator_ + "': " + reason;
    switch (half_->state().alone) {
    case Alone::aborts:
        begin_abort(text);
        return;
    case Alone::keeps:
        reason_ = text;
        keep_in_doubt();
        return;
    case Alone::goes_on:
        reason_ = text;
        return;
    }
}

void Peer::keep(const char *phase) {
    reason_.clear();
    out_.work(member::CommitWork{false, ""});
    finish(phase);
}

void Peer::keep_in_doubt() {
    out_.work(member::CommitWork{true, reason_});
    finish("in-doubt");
}

void Peer::finish(const char *phase) {
    say_phase(phase);
    last_ = {{"tag", half_->tag()},
             {"epoch", half_->epoch()},
             {"role", role()},
             {"phase", phase},
             {"reason", reason_}};
    over_ = std::move(half_);
    aborting_ = false;
}

// Timers.

uint64_t Peer::heartbeat_us() const {
    return std::max(half_->heartbeat_us(), shortest_heartbeat_us);
}

uint64_t Peer::silence_us() const {
    return std::max(half_->silence_us(), heartbeat_us());
}

uint64_t Peer::deadline() const {
    if (!busy()) {
        return never;
    }
    uint64_t earliest = aborting_ ? never : half_->deadline();
    if (link_ != 0 && link_alive_) {
        earliest = std::min(earliest, after(heard_us_, silence_us()));
        earliest = std::min(earliest, after(progress_sent_us_, heartbeat_us()));
    }
    return earliest;
}

void Peer::tick(uint64_t now_us) {
    on_event(now_us);
    if (in_half()) {
        half_->tick();
    }
    if (!busy() || link_ == 0 || !link_alive_) {
        return;
    }
    if (now_us_ >= after(heard_us_, silence_us())) {
        const uint64_t silence_ms = silence_us() / 1000;
        out_.close_link(link_);
        lost_initiator("it said nothing for " + std::to_string(silence_ms) + " ms");
    } else if (now_us_ >= after(progress_sent_us_, heartbeat_us())) {
        send_progress();
    }
}

// Messages sent, and status.

bool Peer::use_epoch(uint64_t epoch) {
    if (epoch <= last_epoch_) {
        fail("epoch " + std::to_string(epoch) + " is not newer than " +
             std::to_string(last_epoch_) + ", the last one here");
        return false;
    }
    last_epoch_ = epoch;
    return true;
}

void Peer::reply(Message message) {
    if (link_alive_) {
        out_.reply(link_, std::move(message));
    }
}

void Peer::send_progress() {
    progress_sent_us_ = now_us_;
    reply(Progress{run_, done_, total_, expected_us_});
}

void Peer::say_phase(const char *phase) {
    phase_ = phase;
    if (link_ == 0) {
        return; // this member's initiator tells the user
    }
    out_.say(HS_SAY_PHASE, to_text({{"epoch", half_->epoch()},
                                    {"tag", half_->tag()},
                                    {"role", "peer"},
                                    {"phase", phase},
                                    {"reason", reason_}}));
}

std::string Peer::occupation() const {
    return half_->title() + " of initiator '" + initiator_ + "'" +
           (aborting_ ? " is still being undone here" : " runs here");
}

Json Peer::status() const {
    Json json = {{"name", self_},
                 {"role", "none"},
                 {"phase", "idle"},
                 {"epoch", 0},
                 {"tag", ""},
                 {"initiator", ""},
                 {"reason", ""},
                 {"last", last_},
                 {"last_epoch", last_epoch_},
                 {"members", Json::array()}};
    if (busy()) {
        json["role"] = role();
        json["phase"] = phase_;
        json["state"] = state_name();
        json["epoch"] = half_->epoch();
        json["tag"] = half_->tag();
        json["initiator"] = initiator_;
        json["reason"] = reason_;
        json["done"] = done_;
        json["total"] = total_;
    }
    return json;
}

} // namespace hotsnap::cluster
