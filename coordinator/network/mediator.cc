// SPDX-License-Identifier: GPL-2.0-or-later
#include "network/mediator.h"

#include <algorithm>

namespace hotsnap::network {

namespace {

constexpr size_t record_limit = size_t{64} << 20;
constexpr size_t held_limit = size_t{64} << 20;
constexpr size_t former_tables = 8;
constexpr size_t source_octet_at = 6; // of the frame, behind the virtio-net header

std::vector<uint8_t> copy_of(const hs_frame &frame, uint8_t source_octet) {
    std::vector<uint8_t> data(frame.data, frame.data + frame.size);
    if (frame.size > frame.vnet_header_size + source_octet_at) {
        data[frame.vnet_header_size + source_octet_at] = source_octet;
    }
    return data;
}

} // namespace

Mediator::Mediator()
    : record_(record_limit), queues_{HoldQueue(held_limit), HoldQueue(held_limit)} {}

uint32_t Mediator::add_nic(std::string name, Mac mac) {
    // Recorded frames name their NIC by its index. A member adds its NICs anew for each epoch, and
    // a restored one once: both must count alike.
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
    state_ = State::installed;
    return true;
}

void Mediator::start_coloring() {
    if (state_ == State::installed) {
        state_ = State::white;
    }
}

void Mediator::cut() {
    if (state_ != State::installed && state_ != State::white) {
        return;
    }
    state_ = State::red;
    holding_ = false;
    recording_ = coloring_;
    // The guest receives these after the cut, so they belong to the channels, not to its memory.
    HoldQueue &held = queues_[HS_TO_GUEST];
    for (HeldFrame &frame : held.frames()) {
        if (frame.channel_state && recording_) {
            save(frame.nic, frame.vnet_size, frame.data, frame.arrived_ns);
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
    holding_ = false;
    recording_ = false;
    closed_ = false;
    record_.clear();
    for (HoldQueue &queue : queues_) {
        queue.release();
    }
}

hs_verdict Mediator::frame(const hs_frame &frame, int64_t now_ns, uint8_t &source_octet) {
    const bool known_direction = frame.direction == HS_FROM_GUEST || frame.direction == HS_TO_GUEST;
    const std::optional<FrameView> view =
        FrameView::parse(frame.data, frame.size, frame.vnet_header_size);
    if (!view || frame.nic >= nics_.size() || !known_direction) {
        // Too short to have a source: what is passed on is unchanged.
        const size_t at = frame.vnet_header_size + source_octet_at;
        source_octet = frame.data && frame.size > at ? frame.data[at] : 0;
        return HS_PASS;
    }
    source_octet = view->source().first_octet();
    return frame.direction == HS_FROM_GUEST ? from_guest(frame, *view, source_octet)
                                            : to_guest(frame, *view, now_ns, source_octet);
}

hs_verdict Mediator::from_guest(const hs_frame &frame, const FrameView &view,
                                uint8_t &source_octet) {
    HoldQueue &queue = queues_[HS_FROM_GUEST];
    if (state_ == State::white || state_ == State::red) {
        const Mac own = nics_[frame.nic].mac;
        const Mac destination = view.destination();
        if (destination.is_group()) {
            if (state_ == State::red && coloring_) {
                if (queue.has_room(frame.size)) {
                    queue.hold({frame.nic, frame.vnet_header_size, copy_of(frame, source_octet)});
                    stats_.held_from_guest++;
                } else {
                    stats_.dropped++;
                }
                return HS_HOLD;
            }
        } else if (view.source() == own) {
            const auto to = table_.find(destination);
            const auto from = table_.find(own);
            if (to && to->tint.color == Color::natural && from && from->member == self_) {
                const bool white = state_ == State::white;
                if (white) {
                    const uint64_t segments = view.segments();
                    counts_.count_sent({own_index(from->mac), to->mac}, segments);
                    stats_.white_sent += segments;
                } else {
                    stats_.red_sent++;
                }
                if (coloring_) {
                    source_octet ^= mask_of({white ? Color::white : Color::red, is_odd(epoch_)});
                }
            }
        } else if (const auto alias = table_.find(view.source());
                   alias && alias->tint.color != Color::natural && coloring_) {
            // No NIC has this MAC: the guest forges a color. It would cut another member early.
            stats_.dropped++;
            return HS_HOLD;
        }
    }
    if (queue.has_ready()) {
        if (queue.has_room(frame.size)) {
            queue.hold_ready({frame.nic, frame.vnet_header_size, copy_of(frame, source_octet)});
        } else {
            stats_.dropped++;
        }
        return HS_HOLD;
    }
    return HS_PASS;
}

std::optional<ChannelCounts::Channel> Mediator::channel_of(const MemberTable::Sighting &from,
                                                           uint32_t nic, Mac destination) const {
    // A switch that floods delivers a frame for one of our NICs to the others, too: not the
    // channel.
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
    // Sent before the sender's cut: white, natural (nobody is natural again before all channels
    // are closed), or of an older epoch. White alone is counted; without coloring, all is.
    const bool white =
        coloring_ ? from.tint == Tint{Color::white, is_odd(epoch_)} : state_ != State::installed;
    if (white && channel) {
        const uint64_t segments = view.segments();
        counts_.count_received(*channel, segments);
        stats_.white_received += segments;
    }
    return group || channel.has_value();
}

hs_verdict Mediator::to_guest(const hs_frame &frame, const FrameView &view, int64_t now_ns,
                              uint8_t &source_octet) {
    HoldQueue &queue = queues_[HS_TO_GUEST];
    const Mac source = view.source();
    const auto from = table_.find(source);
    if (from) {
        source_octet = table_.mac(from->mac).first_octet();
    } else {
        source_octet = former_octet(source);
    }
    // Once a red frame waits for our cut, all later frames do, whoever sent them and whichever NIC
    // they are for: the guest sees them in the order they came.
    const bool first_red =
        from && coloring_ && state_ == State::white && !holding_ && is_red(*from);
    holding_ |= first_red;
    const hs_verdict held = first_red ? HS_HOLD_AND_CUT : HS_HOLD;
    const bool queued = holding_ || queue.has_ready();
    if (queued && !queue.has_room(frame.size)) {
        stats_.dropped++; // and not counted as received: if white, it will be declared lost
        return held;
    }
    const bool before_cut = state_ == State::installed || state_ == State::white;
    stats_.on_the_fly += holding_ && from && is_red(*from);
    const bool channel_state = from && classify(*from, frame.nic, view);
    if (channel_state && recording_) {
        save(frame.nic, frame.vnet_header_size, copy_of(frame, source_octet), now_ns);
    }
    check_complete();
    if (!queued) {
        return HS_PASS;
    }
    HeldFrame copy{frame.nic, frame.vnet_header_size, copy_of(frame, source_octet), now_ns,
                   channel_state && before_cut};
    if (holding_) {
        stats_.held_to_guest++;
        queue.hold(std::move(copy));
    } else {
        queue.hold_ready(std::move(copy));
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

void Mediator::save(uint32_t nic, size_t vnet_size, std::vector<uint8_t> data, int64_t time_ns) {
    const size_t size = data.size() - vnet_size;
    if (record_.append({nic, time_ns, vnet_size, std::move(data)})) {
        stats_.recorded++;
        stats_.recorded_bytes += size;
    } else {
        stats_.unrecorded++;
    }
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
