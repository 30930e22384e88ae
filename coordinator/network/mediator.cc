// SPDX-License-Identifier: GPL-2.0-or-later
#include "network/mediator.h"

#include <algorithm>
#include <new>

namespace hotsnap::network {

namespace {

constexpr size_t record_limit = size_t{64} << 20;
constexpr size_t held_limit = size_t{64} << 20;
constexpr size_t former_tables = 8;
constexpr int64_t second_ns = 1'000'000'000;

} // namespace

Mediator::Mediator()
    : record_(record_limit), queues_{HoldQueue(held_limit), HoldQueue(held_limit)} {}

uint32_t Mediator::add_nic(std::string name, Mac mac, size_t vnet_size, uint32_t queues) {
    // Recorded frames name their NIC by its index. A member adds its NICs anew for each epoch, a
    // restored member once: both must give the same indices.
    const auto at =
        std::find_if(nics_.begin(), nics_.end(), [](const Nic &nic) { return !nic.present; });
    const auto index = static_cast<uint32_t>(at - nics_.begin());
    if (at == nics_.end()) {
        nics_.emplace_back();
    }
    Nic &nic = nics_[index];
    if (nic.name != name || nic.mac != mac) {
        nic = {}; // what it has learned goes
    }
    nic.name = std::move(name);
    nic.mac = mac;
    nic.vnet_size = vnet_size;
    nic.queues = std::clamp(queues, 1u, most_queues);
    nic.present = true;
    nic.in_table = not_in_table;
    return index;
}

std::vector<MemberNic> Mediator::list_nics() {
    listed_ns_ = now_ns_;
    std::vector<MemberNic> list;
    for (uint32_t index = 0; index < nics_.size(); index++) {
        const Nic &nic = nics_[index];
        if (nic.present) {
            SourceTable::Recent recent = nic.sources.recent(now_ns_ - remembered_ns, most_sources);
            std::vector<IpAddress> addresses = list_addresses(index, recent.macs);
            list.push_back({nic.name, nic.mac, std::move(recent.macs), recent.complete, nic.queues,
                            std::move(addresses)});
        }
    }
    return list;
}

void Mediator::remove_nic(uint32_t nic) {
    if (nic < nics_.size()) {
        nics_[nic].present = false;
        queues_[HS_FROM_GUEST].remove_nic(nic);
        queues_[HS_TO_GUEST].remove_nic(nic);
    }
}

bool Mediator::prepare(uint64_t epoch, std::string_view self, std::vector<Member> members,
                       bool coloring, std::string &error) {
    if (state_ != State::off && state_ != State::ended) {
        error = "epoch " + std::to_string(epoch_) + " is still installed; reset it first";
        return false;
    }
    std::optional<MemberTable> table = MemberTable::build(std::move(members), error);
    if (!table) {
        return false;
    }
    const auto &all = table->members();
    const auto own =
        std::find_if(all.begin(), all.end(), [self](const Member &m) { return m.name == self; });
    if (own == all.end()) {
        error = "this member, '" + std::string(self) + "', is not in the member table";
        return false;
    }
    const auto self_index = static_cast<uint32_t>(own - all.begin());
    for (Nic &nic : nics_) {
        const auto index = table->nic(nic.mac);
        if (nic.present && (!index || table->nics()[*index].member != self_index)) {
            error = "NIC '" + nic.name + "' (" + nic.mac.to_string() +
                    ") is not in the member table; was it added while the epoch was prepared?";
            return false;
        }
        nic.in_table = nic.present ? *index : not_in_table;
    }
    if (state_ == State::ended) {
        reset();
    }
    epoch_ = epoch;
    self_ = self_index;
    coloring_ = coloring;
    counts_.start();
    hearing_.start(*table, epoch);
    if (!table_.empty()) {
        former_.push_front(std::move(table_));
        former_.resize(std::min(former_.size(), former_tables));
    }
    table_ = std::move(*table);
    hear_neighbors();
    stats_ = {};
    armed_ = false;
    cut_told_ = false;
    uncounted_ = 0;
    unmarked_.clear();
    announced_.assign(table_.sources().size(), false);
    contacts_.prepare(table_.members().size());
    marks_.clear();
    state_ = State::installed;
    return true;
}

/*
 * A probe may be slow. Whoever was heard lately has a path to us, if no member forwards for it:
 * then its own MAC would come from several NICs.
 */
void Mediator::hear_neighbors() {
    for (const Nic &nic : nics_) {
        for (uint32_t other = 0; nic.present && other < table_.nics().size(); other++) {
            const Mac mac = table_.nics()[other].mac;
            const SourceTable::Entry *seen = nic.neighbors.find(mac);
            if (seen && seen->last_ns >= listed_ns_ - remembered_ns &&
                table_.senders(mac).size() == 1) {
                hearing_.note(nic.in_table, other, heard_before);
            }
        }
    }
}

void Mediator::probe() {
    for (uint32_t nic = 0; in_epoch() && coloring_ && nic < nics_.size(); nic++) {
        for (const Probe::Kind kind :
             {Probe::Kind::alias, Probe::Kind::alias, Probe::Kind::natural}) {
            send_probe(nic, kind);
        }
    }
}

bool Mediator::send_probe(uint32_t index, Probe::Kind kind, uint32_t through) {
    const Nic &nic = nics_[index];
    if (!nic.present || nic.in_table == not_in_table) {
        return false;
    }
    if (kind == Probe::Kind::natural) {
        // With the address of a bond, say, it would bring the frames to the NIC that is not in use.
        return table_.senders(nic.mac).size() == 1 && queue_probe(index, kind, nic.mac, through);
    }
    const uint32_t own = table_.nics()[nic.in_table].first_source;
    return queue_probe(index, kind, table_.alias(own, {Color::white, is_odd(epoch_)}), through);
}

// False when there is no room: as if the network had lost it.
bool Mediator::queue_probe(uint32_t index, Probe::Kind kind, Mac source, uint32_t through) {
    const Nic &nic = nics_[index];
    HoldQueue &queue = queues_[HS_FROM_GUEST];
    try {
        const Probe probe{epoch_, nic.mac, kind, static_cast<uint16_t>(through)};
        HeldFrame frame{index, through, nic.vnet_size, probe.frame(source, nic.vnet_size), now_ns_};
        if (!queue.has_room(frame.data.size())) {
            return false;
        }
        queue.hold_ready(std::move(frame));
        return true;
    } catch (const std::bad_alloc &) {
        return false;
    }
}

void Mediator::start_coloring() {
    if (state_ == State::installed) {
        state_ = State::white;
    }
}

bool Mediator::armed() {
    armed_ = state_ == State::white;
    cut_told_ = armed_ && holding_;
    return cut_told_;
}

void Mediator::cut() {
    if (state_ != State::installed && state_ != State::white) {
        return;
    }
    state_ = State::red;
    holding_ = false;
    recording_ = coloring_;
    try {
        record_senders();
    } catch (const std::bad_alloc &) {
        // frames to some addresses may go to the wrong NIC for a while, after a restore
    }
    // The guest receives held frames after the cut: they belong to the channels, not to its memory.
    // And what waits for the end of coloring was sent before the cut, and received by nobody. It
    // leaves when nobody records any more, so it is in one record only, ours.
    for (const hs_direction direction : {HS_TO_GUEST, HS_FROM_GUEST}) {
        for (HeldFrame &frame : queues_[direction].frames()) {
            if (frame.channel_state && recording_) {
                save(frame, direction == HS_FROM_GUEST, duplicate(frame.data));
                frame.channel_state = false;
            }
        }
    }
    try {
        for (const auto &[nic, source] : moved_while_frames_wait()) {
            record_sender(nic, source); // once more, behind those frames
        }
    } catch (const std::bad_alloc &) {
        // as above
    }
    queues_[HS_TO_GUEST].release();
}

void Mediator::mark() {
    for (uint32_t nic = 0; state_ == State::red && coloring_ && nic < nics_.size(); nic++) {
        for (uint32_t queue = 0; queue < nics_[nic].queues; queue++) {
            send_probe(nic, Probe::Kind::mark, queue);
            send_probe(nic, Probe::Kind::mark, queue);
        }
    }
}

PairCounts Mediator::white_sent() const {
    return {counts_.sent().begin(), counts_.sent().end()};
}

bool Mediator::expect(const PairCounts &expected, const PairCounts &marks, std::string &error) {
    if (state_ != State::red) {
        error = "what to expect came before the cut or after the end of coloring";
        return false;
    }
    if (counts_.expecting()) {
        error = "what to expect came twice";
        return false;
    }
    for (const auto &[channel, segments] : expected) {
        const bool leads_here =
            table_.nic(channel.first) &&
            std::any_of(nics_.begin(), nics_.end(), [&, to = channel.second](const Nic &nic) {
                return nic.present && table_.source(nic.in_table, to);
            });
        if (!leads_here) {
            error = "no channel from " + channel.first.to_string() + " to " +
                    channel.second.to_string() + " leads here";
            return false;
        }
    }
    for (const auto &[pair, due] : marks) {
        const auto other = table_.nic(pair.first), own = table_.nic(pair.second);
        if (!other || !own || table_.nics()[*own].member != self_) {
            error =
                "no mark of " + pair.first.to_string() + " is due at " + pair.second.to_string();
            return false;
        }
    }
    for (const auto &[channel, segments] : expected) {
        counts_.expect(channel, segments);
    }
    for (const auto &[pair, due] : marks) {
        const uint32_t other = *table_.nic(pair.first), own = *table_.nic(pair.second);
        if (!(hearing_.bits(own, other) & heard_mark)) {
            unmarked_.insert({own, other});
        }
    }
    counts_.expect_given();
    check_complete();
    return true;
}

void Mediator::check_complete() {
    if (state_ == State::red && !closed_ && counts_.complete() && unmarked_.empty()) {
        close_channels();
    }
}

void Mediator::close_channels() {
    if (state_ != State::red || closed_) {
        return;
    }
    closed_ = true;
    recording_ = false;
    marks_.clear();
    stats_.lost = counts_.lost() + stats_.unrecorded + uncounted_;
    stats_.unmarked = unmarked_.size();
}

void Mediator::end_coloring() {
    if (state_ != State::red) {
        return;
    }
    close_channels();
    state_ = State::ended;
    release_waiting();
}

// What waited since before an address moved to another NIC would bring the switches back to the NIC
// that it leaves by.
void Mediator::release_waiting() {
    HoldQueue &queue = queues_[HS_FROM_GUEST];
    std::set<std::pair<uint32_t, Mac>> moved;
    try {
        moved = moved_while_frames_wait();
    } catch (const std::bad_alloc &) {
        // frames may go to the wrong NIC until the guest sends by the right one
    }
    queue.release();
    for (const auto &[index, source] : moved) {
        const Nic &nic = nics_[index];
        try {
            put(queue, {index, 0, nic.vnet_size, announcement(nic, source), now_ns_}, true);
        } catch (const std::bad_alloc &) {
            return;
        }
    }
}

void Mediator::reset() {
    state_ = State::off;
    armed_ = false;
    cut_told_ = false;
    holding_ = false;
    recording_ = false;
    closed_ = false;
    marks_.clear();
    contacts_.end();
    record_.clear();
    for (HoldQueue &queue : queues_) {
        queue.release();
    }
}

hs_mediator_stats Mediator::stats() const {
    hs_mediator_stats stats = stats_;
    stats.struct_size = sizeof(stats);
    return stats;
}

} // namespace hotsnap::network
