// SPDX-License-Identifier: GPL-2.0-or-later
// The way of one frame through the mediator.
#include <algorithm>
#include <new>

#include "network/mediator.h"

namespace hotsnap::network {

namespace {

constexpr size_t source_at = 6; // of the frame, behind the virtio-net header
constexpr int64_t second_ns = 1'000'000'000;

/*
 * A neighbor is the outside's when no member sends for it. A member that has begun to send for it
 * since its sources were listed would be overlooked, so a neighbor must have been there for a
 * while; and one that was silent for long may be forgotten by the switches, which then bring its
 * frames to every NIC.
 */
constexpr int64_t neighbor_since_ns = 10 * second_ns;
constexpr int64_t neighbor_silent_ns = 60 * second_ns;

} // namespace

std::optional<std::vector<uint8_t>> Mediator::duplicate(const std::vector<uint8_t> &data) {
    try {
        return data;
    } catch (const std::bad_alloc &) {
        return std::nullopt;
    }
}

std::optional<std::vector<uint8_t>> Mediator::Input::copy(Mac source) const {
    try {
        std::vector<uint8_t> data(frame.size);
        std::copy_n(frame.data, part.head, data.begin());
        if (part.head < frame.size) {
            part.copy(part.opaque, data.data() + part.head);
        }
        source.to_bytes(&data[frame.vnet_header_size + source_at]);
        return data;
    } catch (const std::bad_alloc &) {
        return std::nullopt;
    }
}

hs_verdict Mediator::frame(const hs_frame &frame, const Part &part, int64_t now_ns, Mac &source) {
    const bool known_direction = frame.direction == HS_FROM_GUEST || frame.direction == HS_TO_GUEST;
    const std::optional<FrameView> view =
        FrameView::parse(frame.data, part.head, frame.size, frame.vnet_header_size);
    source = view ? view->source() : Mac(); // a frame that is too short has none
    if (!view || frame.nic >= nics_.size() || !known_direction ||
        (in_epoch() && nics_[frame.nic].in_table == not_in_table)) {
        return HS_PASS;
    }
    now_ns_ = now_ns;
    const Input in{frame, part, *view, now_ns};
    return frame.direction == HS_FROM_GUEST ? from_guest(in, source) : to_guest(in, source);
}

// Keeping frames.

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

void Mediator::hold(HoldQueue &queue, const Input &in, Mac source, Waiting reason) {
    std::optional<std::vector<uint8_t>> data;
    if (queue.has_room(in.frame.size)) {
        data = in.copy(source);
    }
    const bool waits = reason != Waiting::turn;
    if (!data) {
        stats_.dropped++;
    } else if (put(queue,
                   {in.frame.nic, in.frame.queue, in.frame.vnet_header_size, std::move(*data),
                    in.now_ns, reason, waits && state_ == State::white},
                   !waits)) {
        stats_.waited_group += reason == Waiting::group;
        stats_.waited_source += reason == Waiting::source;
        stats_.waited_destination += reason == Waiting::destination;
    }
}

void Mediator::note_wait(const HeldFrame &frame, int64_t now_ns) {
    const auto waited_us =
        static_cast<uint64_t>(std::max<int64_t>(now_ns - frame.arrived_ns, 0)) / 1000;
    const auto longest = [waited_us](uint64_t &most) { most = std::max(most, waited_us); };
    switch (frame.reason) {
    case Waiting::turn:
        return;
    case Waiting::cut:
        return longest(stats_.held_us_max);
    case Waiting::group:
        return longest(stats_.waited_group_us_max);
    case Waiting::source:
        return longest(stats_.waited_source_us_max);
    case Waiting::destination:
        return longest(stats_.waited_destination_us_max);
    }
}

void Mediator::save(const HeldFrame &frame, bool from_guest,
                    std::optional<std::vector<uint8_t>> data) {
    try {
        const size_t size = data ? data->size() - frame.vnet_size : 0;
        if (data && record_.append({frame.nic, frame.queue, from_guest, frame.arrived_ns,
                                    frame.vnet_size, std::move(*data)})) {
            stats_.recorded++;
            stats_.recorded_bytes += size;
            stats_.recorded_from_guest += from_guest;
            return;
        }
    } catch (const std::bad_alloc &) {
        // as if the bound had been reached
    }
    stats_.unrecorded++;
}

bool Mediator::next_released(hs_frame &frame, int64_t now_ns) {
    for (const hs_direction direction : {HS_TO_GUEST, HS_FROM_GUEST}) {
        if (std::optional<HeldFrame> held = queues_[direction].take()) {
            note_wait(*held, now_ns);
            released_ = std::move(held->data);
            frame = {held->nic,        direction,       released_.data(),
                     released_.size(), held->vnet_size, held->queue};
            return true;
        }
    }
    return false;
}

// From the guest.

bool Mediator::is_alias(Mac mac) const {
    return table_.read(mac) || former_source(mac) != mac; // no source looks like an alias
}

bool Mediator::is_neighbor(uint32_t nic, Mac mac) const {
    const SourceTable::Entry *entry = nics_[nic].neighbors.find(mac);
    return table_.complete() && entry && entry->first_ns <= listed_ns_ - neighbor_since_ns &&
           entry->last_ns >= listed_ns_ - neighbor_silent_ns;
}

/*
 * While we are white or red, a frame that may reach a member carries a color or waits until
 * coloring ends: from ARM on no member sends another a natural frame. The answer for a pair of
 * addresses is the same through the whole epoch, so frames of a pair keep their order.
 */
Mediator::Departure Mediator::depart(const Input &in, std::optional<uint32_t> source) const {
    const Mac destination = in.view.destination();
    if (destination.is_group()) {
        return {Waiting::group, {}};
    }
    if (!table_.knows(destination)) {
        return is_neighbor(in.frame.nic, destination) ? Departure{}
                                                      : Departure{Waiting::destination, {}};
    }
    return source ? Departure{{}, source} : Departure{Waiting::source, {}};
}

// False when there is no memory to count it: nobody would miss it then, so it must not leave.
bool Mediator::color(const Input &in, uint32_t index, Mac &source) {
    const bool white = state_ == State::white;
    if (white) {
        const uint64_t segments = in.view.segments();
        try {
            counts_.count_sent(channel_from(nics_[in.frame.nic].in_table, in.view.destination()),
                               segments);
        } catch (const std::bad_alloc &) {
            return false;
        }
        stats_.white_sent += segments;
    } else {
        stats_.red_sent++;
    }
    if (coloring_) {
        source = table_.alias(index, {white ? Color::white : Color::red, is_odd(epoch_)});
    }
    return true;
}

bool Mediator::announce(const Input &in, uint32_t index) {
    const Mac source = in.view.source();
    if (!coloring_ || announced_[index] || table_.senders(source).size() < 2) {
        return false;
    }
    announced_[index] = true;
    return queue_probe(in.frame.nic,
                       state_ == State::red ? Probe::Kind::moved_red : Probe::Kind::moved, source,
                       in.frame.queue);
}

hs_verdict Mediator::from_guest(const Input &in, Mac &source) {
    if ((coloring_ && is_alias(source)) || Probe::parse(in.view)) {
        // The guest forges a color, or a probe. It would cut another member early.
        stats_.dropped++;
        return HS_HOLD;
    }
    note_sent(in.frame.nic, source, in.now_ns);
    learn_address(in, source);
    if (watches_routers()) {
        watch_sent(in);
    }
    if (contacts_.on()) {
        note_contact(in.view.destination(), in.now_ns);
    }
    HoldQueue &queue = queues_[HS_FROM_GUEST];
    hs_verdict held = HS_HOLD;
    if (colors()) {
        const auto index = table_.source(nics_[in.frame.nic].in_table, in.view.source());
        const Departure departure = depart(in, index);
        if (index && announce(in, *index)) {
            held = HS_HOLD_AND_RELEASE;
        }
        if (departure.waits && coloring_) {
            hold(queue, in, source, *departure.waits);
            return held;
        }
        if (departure.source && !color(in, *departure.source, source)) {
            stats_.dropped++;
            return held;
        }
    }
    if (queue.has_ready()) {
        hold(queue, in, source, Waiting::turn);
        return held;
    }
    return HS_PASS;
}

// To the guest.

bool Mediator::take_probe(const Input &in) {
    const std::optional<Probe> probe = Probe::parse(in.view);
    if (!probe) {
        return false;
    }
    const Nic &nic = nics_[in.frame.nic];
    if (in_epoch() && probe->epoch == epoch_) {
        const auto other = table_.nic(probe->nic);
        if (other && probe->kind == Probe::Kind::mark) {
            take_mark(in, *other, probe->queue);
        } else if (other) {
            if (probe->is_move()) {
                take_move(in, *other, probe->kind);
            }
            hear(in.frame.nic, *other, Hearing::bit(*probe));
        }
    } else if (probe->kind != Probe::Kind::mark) { // no mark is sent before we have the table
        try {
            hearing_.note_early(nic.mac, *probe);
        } catch (const std::bad_alloc &) {
            // as if the network had lost it
        }
    }
    return true;
}

// What was sent after its sender's cut is no news for who has not been cut: a restore undoes it.
void Mediator::take_move(const Input &in, uint32_t other, Probe::Kind kind) {
    const Mac source = in.view.source();
    for (const uint32_t index : table_.senders(source)) {
        announced_[index] = table_.sources()[index].nic == other;
    }
    if (kind == Probe::Kind::moved || state_ == State::red) {
        nics_[in.frame.nic].neighbors.learn(source, in.now_ns);
        if (table_.nics()[other].member != self_) {
            note_moved(source, in.now_ns);
        }
    }
}

void Mediator::take_mark(const Input &in, uint32_t other, uint32_t through) {
    const Nic &nic = nics_[in.frame.nic];
    const Marks::Link link{nic.in_table, other};
    if (!closed_ &&
        marks_.came(link, {through, table_.nics()[other].queues, in.frame.queue, nic.queues})) {
        all_marked(link);
    }
}

void Mediator::all_marked(const Marks::Link &link) {
    hearing_.note(link.first, link.second, heard_mark);
    unmarked_.erase(link);
    check_complete();
}

void Mediator::queue_empty(uint32_t nic, uint32_t queue) {
    if (nic >= nics_.size() || nics_[nic].in_table == not_in_table) {
        return;
    }
    std::vector<Marks::Link> marked;
    marks_.empty(nics_[nic].in_table, queue, [&](const Marks::Link &link, size_t came) {
        if (came == table_.nics()[link.second].queues) {
            marked.push_back(link);
        }
    });
    for (const Marks::Link &link : marked) { // the last may close the channels
        all_marked(link);
    }
}

// Queues keep no common order: a red frame in one may overtake a white one in another.
bool Mediator::keeps_order(uint32_t sender) const {
    return table_.nics()[sender].queues == 1 &&
           std::all_of(nics_.begin(), nics_.end(),
                       [](const Nic &nic) { return !nic.present || nic.queues == 1; });
}

bool Mediator::is_red(const MemberTable::Sighting &from) const {
    return from.tint == Tint{Color::red, is_odd(epoch_)};
}

// Only another member that has taken its cut sends red frames to us. A red frame counts before we
// color, too: its sender can have been armed, and cut, before us.
bool Mediator::forces_cut(const MemberTable::Sighting &from) const {
    return coloring_ && (state_ == State::installed || state_ == State::white) && is_red(from) &&
           table_.nics()[sender_of(from)].member != self_;
}

// A switch that floods delivers a frame for one NIC to the others, too; those copies are counted
// apart. The guest may listen to them, so they are recorded as well.
void Mediator::count_received(const Input &in, uint32_t sender) {
    const bool home =
        table_.source(nics_[in.frame.nic].in_table, in.view.destination()).has_value();
    const uint64_t segments = in.view.segments();
    counts_.count_received(channel_from(sender, in.view.destination()), segments, home);
    stats_.white_received += home ? segments : 0;
}

bool Mediator::classify(const Input &in, const std::optional<MemberTable::Sighting> &from) {
    if (!in_epoch()) {
        return false;
    }
    try {
        return classify_in_epoch(in, from);
    } catch (const std::bad_alloc &) {
        uncounted_++; // declared lost at the close, and not recorded
        return false;
    }
}

bool Mediator::classify_in_epoch(const Input &in,
                                 const std::optional<MemberTable::Sighting> &from) {
    if (!from) {
        return classify_natural(in);
    }
    const uint32_t sender = sender_of(*from);
    hear(in.frame.nic, sender, heard_natural | heard_alias);
    if (is_red(*from)) {
        stats_.red_received++;
        if (keeps_order(sender)) {
            counts_.saw_red(channel_from(sender, in.view.destination()));
        }
        return false;
    }
    if (from->tint.odd == is_odd(epoch_)) {
        count_received(in, sender);
    } // else of an older epoch, and so sent before its sender's cut
    return true;
}

/*
 * A natural frame of a member was sent before its sender was armed, hence before any cut: no member
 * is natural again before all channels are closed. One for an address that is no member's is a
 * flooded copy, on its way to the outside.
 */
bool Mediator::classify_natural(const Input &in) {
    const std::vector<uint32_t> &senders = table_.senders(in.view.source());
    const Mac destination = in.view.destination();
    if (!destination.is_group() && !table_.knows(destination)) {
        return false;
    }
    if (senders.empty()) {
        // Surely the outside, or perhaps a member's new source. It came before our cut, so if it is
        // held until then, the guest must get it after a restore.
        return coloring_ && state_ != State::red && !is_neighbor(in.frame.nic, in.view.source());
    }
    if (!coloring_) {
        if (state_ != State::installed && !destination.is_group()) {
            count_received(in, table_.sources()[senders.front()].nic);
        }
        return true;
    }
    stats_.uncolored += state_ == State::red && recording_;
    return true;
}

hs_verdict Mediator::to_guest(const Input &in, Mac &source) {
    if (take_probe(in)) {
        return HS_HOLD;
    }
    HoldQueue &queue = queues_[HS_TO_GUEST];
    const hs_frame &frame = in.frame;
    const auto from = table_.read(source);
    if (from) {
        source = table_.sources()[from->source].mac;
    } else {
        source = former_source(source);
        if (source == in.view.source() && !source.is_group()) {
            nics_[frame.nic].neighbors.learn(source, in.now_ns);
            if (watches_routers()) {
                watch_received(in);
            }
        }
    }
    learn_address(in, source);
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
    HeldFrame kept{frame.nic, frame.queue, frame.vnet_header_size,
                   {},        in.now_ns,   holding_ ? Waiting::cut : Waiting::turn,
                   false};
    std::optional<std::vector<uint8_t>> copy;
    if (queued) {
        if (queue.has_room(frame.size)) {
            copy = in.copy(source);
        }
        if (!copy) {
            stats_.dropped++; // not counted as received: a white frame will be declared lost
            return held;
        }
    }
    const bool before_cut = state_ == State::installed || state_ == State::white;
    stats_.on_the_fly += on_the_fly;
    const bool channel_state = classify(in, from);
    if (channel_state && recording_) {
        save(kept, false, copy ? duplicate(*copy) : in.copy(source));
    }
    check_complete();
    if (!queued) {
        return HS_PASS;
    }
    kept.data = std::move(*copy);
    kept.channel_state = channel_state && before_cut;
    if (put(queue, std::move(kept), !holding_)) {
        stats_.held += holding_;
    }
    return held;
}

Mac Mediator::former_source(Mac source) const {
    for (const MemberTable &table : former_) {
        if (const auto from = table.read(source)) {
            return table.sources()[from->source].mac;
        }
    }
    return source;
}

} // namespace hotsnap::network
