// SPDX-License-Identifier: GPL-2.0-or-later
#include "initiator.h"

#include <algorithm>

namespace hotsnap::cluster {

namespace {

constexpr uint64_t progress_interval_us = 100'000;

uint64_t after(uint64_t now_us, uint64_t delay_us) {
    return delay_us > never - now_us ? never : now_us + delay_us;
}

std::string duration(uint64_t us) {
    return us % 1'000'000 == 0 ? std::to_string(us / 1'000'000) + " s"
                               : std::to_string(us / 1000) + " ms";
}

} // namespace

Initiator::Initiator(Request request, std::string run, InitiatorOutlet &out)
    : request_(std::move(request)), run_(std::move(run)), out_(out),
      links_(request_.members.size()) {
    record_.members.resize(request_.members.size());
}

void Initiator::start(uint64_t now_us) {
    now_us_ = now_us;
    heartbeat_deadline_ = after(now_us, request_.heartbeat_us);
    if (request_.kind == Request::Kind::snapshot) {
        enter(Stage::prepare, "prepare", request_.prepare_timeout_us);
    } else {
        enter(Stage::load, "load", request_.load_timeout_us);
    }
    for (size_t i = 0; i < links_.size(); i++) {
        if (i != request_.self) {
            out_.connect(i);
        }
    }
    on_member_up(request_.self, now_us);
}

// Links.

void Initiator::on_member_up(size_t member, uint64_t now_us) {
    now_us_ = now_us;
    Link &link = links_[member];
    if (link.up || link.gone || (stage_ != Stage::prepare && stage_ != Stage::load)) {
        return;
    }
    link.up = true;
    link.heard_us = now_us;
    if (stage_ == Stage::prepare) {
        out_.send(member, Prepare{run_, request_.tag, request_.directory, request_.coloring,
                                  request_.drain_us, request_.heartbeat_us, request_.silence_us,
                                  request_.options});
    } else {
        out_.send(member, Restore{run_, request_.bundle, request_.heartbeat_us, request_.silence_us,
                                  request_.options});
    }
}

void Initiator::on_member_down(size_t member, const std::string &reason, uint64_t now_us) {
    now_us_ = now_us;
    Link &link = links_[member];
    if (link.gone) {
        return;
    }
    const bool was_up = link.up;
    link.up = false;
    link.gone = true;
    switch (stage_) {
    case Stage::done:
        return;
    case Stage::abort:
        answer(member); // it undoes its part alone
        return;
    case Stage::full:
    case Stage::publish:
        // All channels are closed and its part is durable: whatever became of the member, the
        // bundle needs it no more.
        if (stage_ == Stage::publish || link.answered) {
            record_.warnings.push_back(name(member) + " was lost (" + reason +
                                       ") after its part was complete; its files are kept");
            return;
        }
        break;
    default:
        break;
    }
    abort((was_up ? "lost " : "cannot reach ") + name(member) +
          (was_up ? "" : " at " + request_.members[member].address) + ": " + reason);
}

// Stages.

void Initiator::enter(Stage stage, const char *phase, uint64_t timeout_us) {
    stage_ = stage;
    stage_timeout_us_ = timeout_us;
    stage_deadline_ = timeout_us == 0 ? never : after(now_us_, timeout_us);
    unanswered_ = 0;
    for (Link &link : links_) {
        link.answered = link.gone;
        unanswered_ += !link.answered;
        if (stage == Stage::full || stage == Stage::load) {
            link.heard_us = now_us_; // silence counts from here
        }
    }
    if (phase) {
        say_phase(phase);
    }
}

void Initiator::answer(size_t member) {
    if (!links_[member].answered) {
        links_[member].answered = true;
        if (--unanswered_ == 0) {
            pass_barrier();
        }
    }
}

void Initiator::pass_barrier() {
    switch (stage_) {
    case Stage::prepare:
        install();
        return;
    case Stage::install:
        enter(Stage::arm, "arm", request_.arm_timeout_us);
        broadcast(Arm{run_});
        return;
    case Stage::arm:
        enter(Stage::settle, nullptr, 0);
        stage_deadline_ = after(now_us_, request_.settle_us);
        tick(now_us_);
        return;
    case Stage::snapshot:
        expect();
        return;
    case Stage::drain:
        enter(Stage::full, "full", request_.full_timeout_us);
        broadcast(ColoringEnd{run_});
        return;
    case Stage::full:
        enter(Stage::publish, "publish", 0);
        out_.act(HS_DO_PUBLISH, to_text(snapshot_manifest(request_, record_)));
        return;
    case Stage::load:
        enter(Stage::start, "start", request_.start_timeout_us);
        broadcast(Start{run_});
        return;
    case Stage::start:
        broadcast(Restored{run_});
        succeed("restored", restore_result(request_, record_));
        return;
    case Stage::abort:
        finish(reason_, true);
        return;
    case Stage::settle:
    case Stage::publish:
    case Stage::done:
        return; // not left by a barrier
    }
}

void Initiator::install() {
    std::vector<Member> members;
    uint64_t newest = 0;
    for (size_t i = 0; i < links_.size(); i++) {
        const Prepared &prepared = record_.members[i].prepared;
        members.push_back({request_.members[i].name, prepared.macs});
        newest = std::max(newest, prepared.last_epoch);
    }
    if (newest == never) {
        abort("the epoch numbers are used up; a member reports an impossible one");
        return;
    }
    std::string error;
    std::optional<MemberTable> table = MemberTable::build(members, error);
    if (!table) {
        abort(error);
        return;
    }
    table_ = std::move(*table);
    record_.epoch = newest + 1;
    enter(Stage::install, "install", request_.arm_timeout_us);
    broadcast(Install{run_, record_.epoch, std::move(members)});
}

void Initiator::expect() {
    std::vector<PairCounts> expected(links_.size());
    for (const MemberRecord &member : record_.members) {
        for (const auto &[pair, segments] : member.cut.white_sent) {
            expected[table_.find(pair.second)->member][pair] = segments;
        }
    }
    enter(Stage::drain, "transient-fin", after(request_.drain_us, request_.cut_timeout_us));
    for (size_t i = 0; i < links_.size(); i++) {
        out_.send(i, AllTransientSnapFin{run_, std::move(expected[i])});
    }
}

void Initiator::on_published(uint64_t now_us) {
    now_us_ = now_us;
    if (stage_ == Stage::publish) {
        broadcast(AllFullSnapFin{run_});
        succeed("committed", snapshot_manifest(request_, record_));
    }
}

void Initiator::on_publish_failed(const std::string &reason, uint64_t now_us) {
    now_us_ = now_us;
    if (stage_ == Stage::publish) {
        abort("cannot publish the bundle: " + reason);
    }
}

void Initiator::cancel(const std::string &reason, uint64_t now_us) {
    now_us_ = now_us;
    if (stage_ != Stage::start) { // members that START has reached run already
        fail("cancelled: " + reason, now_us);
    }
}

void Initiator::fail(const std::string &reason, uint64_t now_us) {
    now_us_ = now_us;
    if (stage_ != Stage::publish && stage_ != Stage::abort && stage_ != Stage::done) {
        abort(reason);
    }
}

void Initiator::succeed(const char *phase, Json result) {
    say_phase(phase);
    if (!record_.warnings.empty()) {
        result["warnings"] = record_.warnings;
    }
    finish(to_text(result), false);
}

void Initiator::abort(const std::string &reason) {
    reason_ = reason;
    // Who was not reached has nothing to undo.
    for (Link &link : links_) {
        link.gone |= !link.up;
    }
    enter(Stage::abort, "aborting", request_.abort_timeout_us);
    broadcast(Abort{run_, reason});
}

void Initiator::finish(const std::string &text, bool failed) {
    std::string full_text = text;
    if (failed) {
        for (const std::string &warning : record_.warnings) {
            full_text += "; " + warning;
        }
        reason_ = full_text;
        say_phase("aborted");
    }
    stage_ = Stage::done;
    stage_deadline_ = heartbeat_deadline_ = never;
    for (size_t i = 0; i < links_.size(); i++) {
        if (i != request_.self) {
            out_.disconnect(i);
        }
    }
    out_.act(HS_SAY_FINISHED, full_text, failed);
}

// Time.

uint64_t Initiator::deadline() const {
    return std::min(stage_deadline_, heartbeat_deadline_);
}

void Initiator::tick(uint64_t now_us) {
    now_us_ = now_us;
    if (stage_ == Stage::done) {
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
    if (stage_ == Stage::settle) {
        enter(Stage::snapshot, "snapshot", request_.cut_timeout_us);
        broadcast(Snapshot{run_});
    } else if (stage_ == Stage::abort) {
        record_.warnings.push_back(silent_members() + " did not confirm in " +
                                   duration(request_.abort_timeout_us) + " that all is undone");
        finish(reason_, true);
    } else {
        abort("timeout in phase " + std::string(phase_) + ": no answer from " + silent_members() +
              " within " + duration(stage_timeout_us_));
    }
}

void Initiator::check_silence() {
    if (stage_ != Stage::full && stage_ != Stage::load) {
        return; // the other stages have deadlines
    }
    for (size_t i = 0; i < links_.size(); i++) {
        const Link &link = links_[i];
        if (i != request_.self && !link.answered &&
            now_us_ >= after(link.heard_us, request_.silence_us)) {
            abort(name(i) + " does not answer: it said nothing for " +
                  duration(request_.silence_us));
            return;
        }
    }
}

std::string Initiator::silent_members() const {
    constexpr size_t most_named = 5;
    std::string names;
    size_t count = 0;
    for (size_t i = 0; i < links_.size(); i++) {
        if (!links_[i].answered && count++ < most_named) {
            names += (names.empty() ? "" : ", ") + name(i);
        }
    }
    if (count > most_named) {
        names += " and " + std::to_string(count - most_named) + " more";
    }
    return names;
}

// Words.

void Initiator::broadcast(const Message &message) {
    std::vector<size_t> reachable;
    for (size_t i = 0; i < links_.size(); i++) {
        if (links_[i].up) {
            reachable.push_back(i);
        }
    }
    out_.broadcast(reachable, message);
}

void Initiator::say_phase(const char *phase) {
    phase_ = phase;
    record_.timeline.push_back({phase, now_us_});
    out_.act(HS_SAY_PHASE, to_text({{"epoch", record_.epoch},
                                    {"tag", request_.tag},
                                    {"role", "initiator"},
                                    {"phase", phase},
                                    {"reason", reason_}}));
}

void Initiator::say_progress(bool at_once) {
    if (at_once || now_us_ - progress_said_us_ >= progress_interval_us) {
        progress_said_us_ = now_us_;
        out_.act(HS_SAY_PROGRESS, to_text({{"done", done_bytes_}, {"total", total_bytes_}}));
    }
}

void Initiator::add_status(Json &status) const {
    Json members = Json::array();
    for (size_t i = 0; i < links_.size(); i++) {
        const Link &link = links_[i];
        const char *state = link.gone       ? "lost"
                            : !link.up      ? "connecting"
                            : link.answered ? "waiting"
                                            : phase_;
        members.push_back({{"name", request_.members[i].name},
                           {"address", request_.members[i].address},
                           {"state", state},
                           {"done", link.done},
                           {"total", link.total}});
    }
    status["role"] = "initiator";
    status["phase"] = phase_;
    status["epoch"] = record_.epoch;
    status["tag"] = request_.tag;
    status["initiator"] = request_.members[request_.self].name;
    status["reason"] = reason_;
    status["members"] = std::move(members);
}

} // namespace hotsnap::cluster
