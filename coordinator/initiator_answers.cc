// SPDX-License-Identifier: GPL-2.0-or-later
// What an initiator makes of its members' messages.
#include <algorithm>

#include "initiator.h"

namespace hotsnap::cluster {

void Initiator::on_message(size_t member, const Message &message, uint64_t now_us) {
    now_us_ = now_us;
    Link &link = links_[member];
    if (!link.up || stage_ == Stage::done) {
        return;
    }
    link.heard_us = now_us;
    if (!std::holds_alternative<ErrorMessage>(message) && run_of(message) != run_) {
        return; // of an earlier run over the same link
    }
    std::visit([this, member](const auto &m) { handle(member, m); }, message);
}

bool Initiator::legal(const char *type, size_t member, std::initializer_list<Stage> stages) {
    if (std::find(stages.begin(), stages.end(), stage_) != stages.end() &&
        !links_[member].answered) {
        return true;
    }
    if (stage_ != Stage::abort && stage_ != Stage::publish) { // there it may have crossed
        abort(name(member) + " sent an unexpected " + type);
    }
    return false;
}

void Initiator::handle(size_t member, const Prepared &m) {
    if (legal(Prepared::type, member, {Stage::prepare})) {
        record_.members[member].prepared = m;
        answer(member);
    }
}

void Initiator::handle(size_t member, const Refused &m) {
    if (legal(Refused::type, member, {Stage::prepare, Stage::load})) {
        abort(name(member) + " refuses: " + m.reason);
    }
}

void Initiator::handle(size_t member, const Installed &) {
    if (legal(Installed::type, member, {Stage::install})) {
        answer(member);
    }
}

void Initiator::handle(size_t member, const Armed &) {
    if (legal(Armed::type, member, {Stage::arm})) {
        answer(member);
    }
}

void Initiator::handle(size_t member, const TransientSnapFin &m) {
    if (!legal(TransientSnapFin::type, member, {Stage::settle, Stage::snapshot})) {
        return;
    }
    for (const auto &[pair, segments] : m.white_sent) {
        const auto from = table_.find(pair.first);
        const auto to = table_.find(pair.second);
        if (!from || from->member != member || !to || to->tint.color != network::Color::natural) {
            abort(name(member) + " reports a channel that is not its own, " +
                  pair.first.to_string() + " to " + pair.second.to_string());
            return;
        }
    }
    record_.members[member].cut = m;
    if (stage_ == Stage::settle) {
        // Its frames are red now. Nothing was cut before all were armed, so that is sound.
        enter(Stage::snapshot, "snapshot", request_.cut_timeout_us);
        broadcast(Snapshot{run_});
    }
    answer(member);
}

void Initiator::handle(size_t member, const ChannelsFin &m) {
    if (legal(ChannelsFin::type, member, {Stage::drain})) {
        record_.members[member].channels = m;
        answer(member);
    }
}

void Initiator::handle(size_t member, const FullSnapFin &m) {
    if (legal(FullSnapFin::type, member, {Stage::full})) {
        Link &link = links_[member];
        record_.members[member].report = m.report;
        done_bytes_ += link.total - link.done; // its part is complete, whatever it said last
        link.done = link.total;
        say_progress(true);
        answer(member);
    }
}

void Initiator::handle(size_t member, const Loaded &m) {
    if (legal(Loaded::type, member, {Stage::load})) {
        record_.members[member].report = m.report;
        answer(member);
    }
}

void Initiator::handle(size_t member, const Started &m) {
    if (legal(Started::type, member, {Stage::start})) {
        record_.members[member].report.update(m.report);
        answer(member);
    }
}

void Initiator::handle(size_t member, const Progress &m) {
    Link &link = links_[member];
    if (stage_ == Stage::publish || (stage_ == Stage::full && link.answered)) {
        return; // a sign of life; its part is complete
    }
    done_bytes_ += m.done - link.done; // modulo 2^64, as is the sum
    total_bytes_ += m.total - link.total;
    link.done = m.done;
    link.total = m.total;
    say_progress(false);
}

void Initiator::handle(size_t member, const Abort &m) {
    if (stage_ != Stage::abort && stage_ != Stage::publish) {
        abort(name(member) + ": " + m.reason);
    }
}

void Initiator::handle(size_t member, const Aborted &m) {
    if (stage_ == Stage::abort && !links_[member].answered) {
        if (!m.error.empty()) {
            record_.warnings.push_back(name(member) + " could not undo all: " + m.error);
        }
        answer(member);
    }
}

void Initiator::handle(size_t member, const ErrorMessage &m) {
    if (stage_ != Stage::abort && stage_ != Stage::publish) {
        abort(name(member) + " does not follow the protocol: " + m.reason);
    }
}

} // namespace hotsnap::cluster
