// SPDX-License-Identifier: GPL-2.0-or-later
#include "peer.h"

#include <algorithm>

#include "network/channel_json.h"
#include "wire/request.h"

namespace hotsnap::cluster {

namespace {

constexpr uint64_t shortest_heartbeat_us = 10'000; // whatever the initiator asks for

uint64_t after(uint64_t now_us, uint64_t delay_us) {
    return delay_us > never - now_us ? never : now_us + delay_us;
}

} // namespace

// Messages of the initiator.

void Peer::on_message(hs_link link, const std::string &initiator, const Message &message,
                      uint64_t now_us) {
    now_us_ = now_us;
    if (std::holds_alternative<ErrorMessage>(message)) {
        ignored_++; // never answered: two members must not answer each other forever
        return;
    }
    const bool ours = busy() && link == link_ && run_of(message) == run_;
    if (busy() && link == link_) {
        heard_us_ = now_us;
    }
    const auto *prepare = std::get_if<Prepare>(&message);
    const auto *restore = std::get_if<Restore>(&message);
    if (prepare || restore) {
        if (busy()) {
            out_.reply(link,
                       Refused{run_of(message), occupation() + "; try again when it is over"});
            return;
        }
        if (prepare) {
            try {
                check_place(prepare->tag, prepare->directory);
            } catch (const BadInput &e) {
                ignored_++;
                out_.reply(link, Refused{prepare->run, e.what()});
                return;
            }
        }
        begin(link, initiator, run_of(message));
        if (prepare) {
            handle(*prepare);
        } else {
            handle(*restore);
        }
        return;
    }
    if (!ours) {
        if (std::holds_alternative<Abort>(message)) {
            out_.reply(link, Aborted{run_of(message), ""}); // nothing of it is left here
        } else if (!std::holds_alternative<Heartbeat>(message)) {
            ignored_++;
            out_.reply(link, ErrorMessage{std::string(type_of(message)) + ": run '" +
                                          run_of(message) + "' is not known here"});
        }
        return;
    }
    std::visit([this](const auto &m) { handle(m); }, message);
}

void Peer::begin(hs_link link, const std::string &initiator, const std::string &run) {
    link_ = link;
    link_alive_ = true;
    initiator_ = initiator;
    run_ = run;
    tag_.clear();
    epoch_ = 0;
    report_.reset();
    reason_.clear();
    done_ = total_ = 0;
    drain_deadline_ = never;
    heard_us_ = progress_sent_us_ = now_us_;
}

void Peer::handle(const Prepare &m) {
    tag_ = m.tag;
    coloring_ = m.coloring;
    drain_us_ = m.drain_us;
    heartbeat_us_ = std::max(m.heartbeat_us, shortest_heartbeat_us);
    silence_us_ = std::max(m.silence_us, heartbeat_us_);
    state_ = State::preparing;
    say_phase("prepare");
    out_.act(HS_DO_PREPARE, to_text({{"run", run_},
                                     {"tag", m.tag},
                                     {"directory", m.directory},
                                     {"initiator", initiator_},
                                     {"self", self_},
                                     {"role", link_ == 0 ? "initiator" : "peer"},
                                     {"coloring", m.coloring},
                                     {"options", m.options}}));
}

void Peer::handle(const Install &m) {
    if (!legal(Install::type, {State::prepared})) {
        return;
    }
    if (m.epoch <= last_epoch_) {
        fail("epoch " + std::to_string(m.epoch) + " is not newer than " +
             std::to_string(last_epoch_) + ", the last one here");
        return;
    }
    epoch_ = last_epoch_ = m.epoch;
    state_ = State::installing;
    say_phase("install");
    out_.act(HS_DO_INSTALL, to_text({{"epoch", epoch_},
                                     {"tag", tag_},
                                     {"self", self_},
                                     {"coloring", coloring_},
                                     {"members", members_to_json(m.members)}}));
}

void Peer::handle(const Arm &) {
    if (legal(Arm::type, {State::installed})) {
        state_ = State::arming;
        say_phase("arm");
        out_.act(HS_DO_ARM, epoch_json());
    }
}

void Peer::handle(const Snapshot &) {
    // Late, if a red frame was faster: the cut is under way or done.
    if (legal(Snapshot::type, {State::armed, State::cutting, State::cut}) &&
        state_ == State::armed) {
        state_ = State::cutting;
        say_phase("snapshot");
        out_.act(HS_DO_CUT, epoch_json());
    }
}

void Peer::handle(const AllTransientSnapFin &m) {
    if (legal(AllTransientSnapFin::type, {State::cut})) {
        state_ = State::draining;
        drain_deadline_ = after(now_us_, drain_us_);
        out_.act(HS_DO_EXPECT, to_text(counts_to_json(m.expected)));
    }
}

void Peer::handle(const ColoringEnd &) {
    if (legal(ColoringEnd::type, {State::drained})) {
        state_ = State::copying;
        say_phase("full");
        out_.act(HS_DO_END_COLORING, epoch_json());
        promise();
    }
}

void Peer::handle(const AllFullSnapFin &) {
    if (legal(AllFullSnapFin::type, {State::promised})) {
        keep("committed", false, "");
    }
}

void Peer::handle(const Restore &m) {
    heartbeat_us_ = std::max(m.heartbeat_us, shortest_heartbeat_us);
    silence_us_ = std::max(m.silence_us, heartbeat_us_);
    state_ = State::loading;
    say_phase("load");
    out_.act(HS_DO_LOAD, to_text({{"run", run_},
                                  {"bundle", m.bundle},
                                  {"initiator", initiator_},
                                  {"self", self_},
                                  {"role", link_ == 0 ? "initiator" : "peer"},
                                  {"options", m.options}}));
}

void Peer::handle(const Start &) {
    if (legal(Start::type, {State::loaded})) {
        state_ = State::starting;
        say_phase("start");
        out_.act(HS_DO_START, epoch_json());
    }
}

void Peer::handle(const Restored &) {
    if (legal(Restored::type, {State::started})) {
        keep("restored", false, "");
    }
}

void Peer::handle(const Abort &m) {
    if (state_ != State::aborting) {
        begin_abort(m.reason);
    }
}

void Peer::handle(const Heartbeat &) {}

bool Peer::in(std::initializer_list<State> states) const {
    return std::find(states.begin(), states.end(), state_) != states.end();
}

bool Peer::legal(const char *type, std::initializer_list<State> states) {
    if (in(states)) {
        return true;
    }
    ignored_++;
    // An abort crosses messages that were sent before it was known: not worth a word.
    if (state_ != State::aborting) {
        reply(ErrorMessage{std::string(type) + " is not expected by a member that is " +
                           to_string(state_)});
    }
    return false;
}

// The initiator's end.

void Peer::on_link_down(hs_link link, const std::string &reason, uint64_t now_us) {
    now_us_ = now_us;
    if (busy() && link == link_ && link_alive_) {
        lost_initiator(reason);
    }
}

void Peer::lost_initiator(const std::string &reason) {
    link_alive_ = false;
    const std::string text = "lost the initiator '" + initiator_ + "': " + reason;
    if (state_ == State::aborting) {
        return;
    }
    if (state_ == State::promised) {
        keep("in-doubt", true, text); // a published bundle may refer to our files
    } else if (state_ == State::starting) {
        reason_ = text; // others may run already: so shall this one, once it has started
    } else if (state_ == State::started) {
        keep("in-doubt", true, text);
    } else {
        begin_abort(text);
    }
}

void Peer::keep(const char *phase, bool in_doubt, const std::string &reason) {
    reason_ = reason;
    Json json = {{"epoch", epoch_}, {"tag", tag_}, {"in_doubt", in_doubt}, {"reason", reason}};
    out_.act(HS_DO_COMMIT, to_text(json));
    finish(phase);
}

void Peer::finish(const char *phase) {
    say_phase(phase);
    last_ = {{"tag", tag_},
             {"epoch", epoch_},
             {"role", link_ == 0 ? "initiator" : "peer"},
             {"phase", phase},
             {"reason", reason_}};
    state_ = State::idle;
    drain_deadline_ = never;
}

// Time.

uint64_t Peer::deadline() const {
    if (!busy()) {
        return never;
    }
    uint64_t earliest = drain_deadline_;
    if (link_ != 0 && link_alive_) {
        earliest = std::min(earliest, after(heard_us_, silence_us_));
        earliest = std::min(earliest, after(progress_sent_us_, heartbeat_us_));
    }
    return earliest;
}

void Peer::tick(uint64_t now_us) {
    now_us_ = now_us;
    if (!busy()) {
        return;
    }
    if (now_us_ >= drain_deadline_) {
        drain_deadline_ = never;
        state_ = State::closing;
        out_.act(HS_DO_CLOSE_CHANNELS, epoch_json());
    }
    if (link_ == 0 || !link_alive_) {
        return;
    }
    if (now_us_ >= after(heard_us_, silence_us_)) {
        out_.close_link(link_);
        lost_initiator("it said nothing for " + std::to_string(silence_us_ / 1000) + " ms");
    } else if (now_us_ >= after(progress_sent_us_, heartbeat_us_)) {
        send_progress();
    }
}

// Words.

void Peer::reply(Message message) {
    if (link_alive_) {
        out_.reply(link_, std::move(message));
    }
}

void Peer::send_progress() {
    progress_sent_us_ = now_us_;
    reply(Progress{run_, done_, total_});
}

void Peer::say_phase(const char *phase) {
    phase_ = phase;
    if (link_ == 0) {
        return; // the initiator speaks for this member
    }
    out_.act(HS_SAY_PHASE, to_text({{"epoch", epoch_},
                                    {"tag", tag_},
                                    {"role", "peer"},
                                    {"phase", phase},
                                    {"reason", reason_}}));
}

std::string Peer::epoch_json() const {
    return to_text({{"epoch", epoch_}, {"tag", tag_}});
}

std::string Peer::occupation() const {
    const std::string what =
        tag_.empty() ? std::string("a restore") : "the snapshot '" + tag_ + "'";
    const char *doing = state_ == State::aborting ? " is still being undone here" : " runs here";
    return what + " of initiator '" + initiator_ + "'" + doing;
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
        json["role"] = link_ == 0 ? "initiator" : "peer";
        json["phase"] = phase_;
        json["state"] = to_string(state_);
        json["epoch"] = epoch_;
        json["tag"] = tag_;
        json["initiator"] = initiator_;
        json["reason"] = reason_;
        json["done"] = done_;
        json["total"] = total_;
    }
    return json;
}

} // namespace hotsnap::cluster
