// SPDX-License-Identifier: GPL-2.0-or-later
#include "network/mediator.h"

#include <algorithm>
#include <new>

namespace hotsnap::network {

namespace {

constexpr size_t record_limit = size_t{64} << 20;
constexpr size_t held_limit = size_t{64} << 20;
constexpr size_t former_tables = 8;
constexpr size_t source_octet_at = 6; // of the frame, behind the virtio-net header

// None when there is no memory for it.
std::optional<std::vector<uint8_t>> duplicate(const std::vector<uint8_t> &data) {
    try {
        return data;
    } catch (const std::bad_alloc &) {
        return std::nullopt;
    }
}

} // namespace

Mediator::Mediator()
    : record_(record_limit), queues_{HoldQueue(held_limit), HoldQueue(held_limit)} {}

uint32_t Mediator::add_nic(std::string name, Mac mac) {
    // Recorded frames name their NIC by its index. A member adds its NICs anew for each epoch, a
    // restored member once: both must give the same indices.
    const auto at =
        std::find_if(nics_.begin(), nics_.end(), [](const Nic &nic) { return !nic.present; });
    const auto index = static_cast<uint32_t>(at - nics_.begin());
    if (at == nics_.end()) {
        nics_.emplace_back();
    }
    nics_[index] = {std::move(name), mac};
    return index;
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
    for (const Nic &nic : nics_) {
        if (nic.present &&
            std::find(own->macs.begin(), own->macs.end(), nic.mac) == own->macs.end()) {
            error = "NIC '" + nic.name + "' (" + nic.mac.to_string() +
                    ") is not in the member table; was it added while the epoch was prepared?";
            return false;
        }
    }
    if (state_ == State::ended) {
        reset();
    }
    epoch_ = epoch;
    self_ = static_cast<uint32_t>(own - all.begin());
    coloring_ = coloring;
    own_base_ = 0;
    for (auto m = all.begin(); m != own; ++m) {
        own_base_ += static_cast<uint32_t>(m->macs.size());
    }
    counts_.start(own->macs.size(), table->mac_count());
    if (!table_.empty()) {
        former_.push_front(std::move(table_));
        former_.resize(std::min(former_.size(), former_tables));
    }
    table_ = std::move(*table);
    stats_ = {};
    armed_ = false;
    cut_told_ = false;
    state_ = State::installed;
    return true;
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
    // The guest receives held frames after the cut: they belong to the channels, not to its memory.
    HoldQueue &held = queues_[HS_TO_GUEST];
    for (HeldFrame &frame : held.frames()) {
        if (frame.channel_state && recording_) {
            save(frame.nic, frame.vnet_size, duplicate(frame.data), frame.arrived_ns);
            frame.channel_state = false;
        }
    }
    held.release();
}

PairCounts Mediator::white_sent() const {
    PairCounts sent;
    if (state_ == State::off) {
        return sent;
    }
    const std::vector<Mac> &own = table_.members()[self_].macs;
    for (uint32_t o = 0; o < own.size(); o++) {
        for (uint32_t other = 0; other < table_.mac_count(); other++) {
            if (const uint64_t segments = counts_.sent({o, other})) {
                sent[{own[o], table_.mac(other)}] = segments;
            }
        }
    }
    return sent;
}

bool Mediator::expect(const PairCounts &expected, std::string &error) {
    if (state_ != State::red) {
        error = "what to expect came before the cut or after the end of coloring";
        return false;
    }
    if (counts_.expecting()) {
        error = "what to expect came twice";
        return false;
    }
    const std::vector<Mac> &own = table_.members()[self_].macs;
    std::vector<std::pair<ChannelCounts::Channel, uint64_t>> rows;
    for (const auto &[pair, segments] : expected) {
        const auto from = table_.find(pair.first);
        const auto to = std::find(own.begin(), own.end(), pair.second);
        if (!from || from->tint.color != Color::natural || to == own.end()) {
            error = "no channel from " + pair.first.to_string() + " to " + pair.second.to_string() +
                    " leads here";
            return false;
        }
        rows.push_back({{static_cast<uint32_t>(to - own.begin()), from->mac}, segments});
    }
    for (const auto &[channel, segments] : rows) {
        counts_.expect(channel, segments);
    }
    counts_.expect_given();
    check_complete();
    return true;
}

void Mediator::check_complete() {
    if (state_ == State::red && !closed_ && counts_.complete()) {
        close_channels();
    }
}

void Mediator::close_channels() {
    if (state_ != State::red || closed_) {
        return;
    }
    closed_ = true;
    recording_ = false;
    stats_.lost = counts_.lost() + stats_.unrecorded;
}

void Mediator::end_coloring() {
    if (state_ != State::red) {
        return;
    }
    close_channels();
    state_ = State::ended;
    queues_[HS_FROM_GUEST].release();
}

void Mediator::reset() {
    state_ = State::off;
    armed_ = false;
    cut_told_ = false;
    holding_ = false;
    recording_ = false;
    closed_ = false;
    record_.clear();
    for (HoldQueue &queue : queues_) {
        queue.release();
    }
}

std::optional<std::vector<uint8_t>> Mediator::Input::copy(uint8_t source_octet) const {
    try {
        std::vector<uint8_t> data(frame.size);
        std::copy_n(frame.data, part.head, data.begin());
        if (part.head < frame.size) {
            part.copy(part.opaque, data.data() + part.head);
        }
        data[frame.vnet_header_size + source_octet_at] = source_octet;
        return data;
    } catch (const std::bad_alloc &) {
        return std::nullopt;
    }
}

bool Mediator::put(HoldQueue &queue, HeldFrame frame, bool ready) {
    try {
        if (ready) {
            queue.hold_ready(std::move(frame));
        } else {
            queue.hold(std::move(frame));
        }
        return true;
    } catch (const std::bad_alloc &) {
        stats_.dropped++;
        return false;
    }
}

void Mediator::hold(HoldQueue &queue, const Input &in, uint8_t source_octet, bool ready) {
    std::optional<std::vector<uint8_t>> data;
    if (queue.has_room(in.frame.size)) {
        data = in.copy(source_octet);
    }
    if (!data) {
        stats_.dropped++;
    } else if (put(queue, {in.frame.nic, in.frame.vnet_header_size, std::move(*data)}, ready)) {
        stats_.held_broadcasts += !ready;
    }
}

hs_verdict Mediator::frame(const hs_frame &frame, const Part &part, int64_t now_ns,
                           uint8_t &source_octet) {
    const bool known_direction = frame.direction == HS_FROM_GUEST || frame.direction == HS_TO_GUEST;
    const std::optional<FrameView> view =
        FrameView::parse(frame.data, part.head, frame.size, frame.vnet_header_size);
    if (!view || frame.nic >= nics_.size() || !known_direction) {
        // Too short to have a source: the frame is passed on unchanged.
        const size_t at = frame.vnet_header_size + source_octet_at;
        source_octet = frame.data && part.head > at ? frame.data[at] : 0;
        return HS_PASS;
    }
    source_octet = view->source().first_octet();
    const Input in{frame, part, *view};
    return frame.direction == HS_FROM_GUEST ? from_guest(in, source_octet)
                                            : to_guest(in, now_ns, source_octet);
}

hs_verdict Mediator::from_guest(const Input &in, uint8_t &source_octet) {
    HoldQueue &queue = queues_[HS_FROM_GUEST];
    if (in_epoch()) {
        const bool colors = state_ != State::installed;
        const Mac own = nics_[in.frame.nic].mac;
        const Mac destination = in.view.destination();
        if (in.view.source() != own && coloring_) {
            const auto alias = table_.find(in.view.source());
            if (alias && alias->tint.color != Color::natural) {
                // No NIC has this MAC: the guest forges a color. It would cut another member early.
                stats_.dropped++;
                return HS_HOLD;
            }
        }
        if (destination.is_group()) {
            if (state_ == State::red && coloring_) {
                hold(queue, in, source_octet, false);
                return HS_HOLD;
            }
        } else if (in.view.source() == own && colors) {
            const auto to = table_.find(destination);
            const auto from = table_.find(own);
            if (to && to->tint.color == Color::natural && from && from->member == self_) {
                const bool white = state_ == State::white;
                if (white) {
                    const uint64_t segments = in.view.segments();
                    counts_.count_sent({own_index(from->mac), to->mac}, segments);
                    stats_.white_sent += segments;
                } else {
                    stats_.red_sent++;
                }
                if (coloring_) {
                    source_octet ^= mask_of({white ? Color::white : Color::red, is_odd(epoch_)});
                }
            }
        }
    }
    if (queue.has_ready()) {
        hold(queue, in, source_octet, true);
        return HS_HOLD;
    }
    return HS_PASS;
}

std::optional<ChannelCounts::Channel> Mediator::channel_of(const MemberTable::Sighting &from,
                                                           uint32_t nic, Mac destination) const {
    // A switch that floods delivers a frame for one of our NICs to the others, too; those copies
    // are not the channel's.
    if (destination != nics_[nic].mac) {
        return std::nullopt;
    }
    const auto to = table_.find(destination);
    if (!to || to->member != self_ || to->tint.color != Color::natural) {
        return std::nullopt;
    }
    return ChannelCounts::Channel{own_index(to->mac), from.mac};
}

bool Mediator::is_red(const MemberTable::Sighting &from) const {
    return from.tint == Tint{Color::red, is_odd(epoch_)};
}

// Only another member that has taken its cut sends red frames to us; the MAC of a non-member has no
// color. A red frame counts before we color, too: its sender can have been armed, and cut, before
// us.
bool Mediator::forces_cut(const MemberTable::Sighting &from) const {
    return coloring_ && (state_ == State::installed || state_ == State::white) && is_red(from) &&
           from.member != self_;
}

bool Mediator::classify(const MemberTable::Sighting &from, uint32_t nic, const FrameView &view) {
    if (state_ == State::off || state_ == State::ended) {
        return false;
    }
    const bool group = view.destination().is_group();
    const std::optional<ChannelCounts::Channel> channel = channel_of(from, nic, view.destination());
    if (is_red(from)) {
        stats_.red_received++;
        if (channel) {
            counts_.saw_red(*channel);
        }
        return false;
    }
    // Sent before the sender's cut: white, natural (no member is natural again before all channels
    // are closed), or of an older epoch. Only white is counted; without coloring, all frames are.
    const bool white =
        coloring_ ? from.tint == Tint{Color::white, is_odd(epoch_)} : state_ != State::installed;
    if (white && channel) {
        const uint64_t segments = view.segments();
        counts_.count_received(*channel, segments);
        stats_.white_received += segments;
    }
    return group || channel.has_value();
}

hs_verdict Mediator::to_guest(const Input &in, int64_t now_ns, uint8_t &source_octet) {
    HoldQueue &queue = queues_[HS_TO_GUEST];
    const hs_frame &frame = in.frame;
    const Mac source = in.view.source();
    const auto from = table_.find(source);
    if (from) {
        source_octet = table_.mac(from->mac).first_octet();
    } else {
        source_octet = former_octet(source);
    }
    // Once a red frame waits for our cut, all later frames wait, from any sender and for any NIC:
    // the guest sees them in the order in which they came.
    const bool on_the_fly = from && forces_cut(*from);
    holding_ |= on_the_fly;
    hs_verdict held = HS_HOLD;
    if (on_the_fly && armed_ && !cut_told_) {
        cut_told_ = true;
        held = HS_HOLD_AND_CUT;
    }
    const bool queued = holding_ || queue.has_ready();
    std::optional<std::vector<uint8_t>> copy;
    if (queued) {
        if (queue.has_room(frame.size)) {
            copy = in.copy(source_octet);
        }
        if (!copy) {
            stats_.dropped++; // not counted as received: a white frame will be declared lost
            return held;
        }
    }
    const bool before_cut = state_ == State::installed || state_ == State::white;
    stats_.on_the_fly += on_the_fly;
    const bool channel_state = from && classify(*from, frame.nic, in.view);
    if (channel_state && recording_) {
        save(frame.nic, frame.vnet_header_size, copy ? duplicate(*copy) : in.copy(source_octet),
             now_ns);
    }
    check_complete();
    if (!queued) {
        return HS_PASS;
    }
    if (put(queue,
            {frame.nic, frame.vnet_header_size, std::move(*copy), now_ns,
             channel_state && before_cut},
            !holding_)) {
        stats_.held += holding_;
    }
    return held;
}

uint8_t Mediator::former_octet(Mac source) const {
    for (const MemberTable &table : former_) {
        if (const auto from = table.find(source)) {
            return table.mac(from->mac).first_octet();
        }
    }
    return source.first_octet();
}

void Mediator::save(uint32_t nic, size_t vnet_size, std::optional<std::vector<uint8_t>> data,
                    int64_t time_ns) {
    try {
        const size_t size = data ? data->size() - vnet_size : 0;
        if (data && record_.append({nic, time_ns, vnet_size, std::move(*data)})) {
            stats_.recorded++;
            stats_.recorded_bytes += size;
            return;
        }
    } catch (const std::bad_alloc &) {
        // as if the bound had been reached
    }
    stats_.unrecorded++;
}

bool Mediator::next_released(hs_frame &frame) {
    for (const hs_direction direction : {HS_TO_GUEST, HS_FROM_GUEST}) {
        if (std::optional<HeldFrame> held = queues_[direction].take()) {
            released_ = std::move(held->data);
            frame = {held->nic, direction, released_.data(), released_.size(), held->vnet_size};
            return true;
        }
    }
    return false;
}

hs_mediator_stats Mediator::stats() const {
    hs_mediator_stats stats = stats_;
    stats.struct_size = sizeof(stats);
    return stats;
}

} // namespace hotsnap::network
