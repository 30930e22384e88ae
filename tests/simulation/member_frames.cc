// SPDX-License-Identifier: GPL-2.0-or-later
// The data plane of a simulated member: guest, mediator, network.
#include <algorithm>

#include "member.h"

namespace hotsnap::sim {

void Member::guest_sends(size_t nic, Mac source, Mac destination, size_t segments) {
    if (!alive_ || stands_still()) {
        return;
    }
    const std::optional<Network::Port> home =
        destination.is_group() ? std::nullopt : world_.network.home(nics_[nic].port, destination);
    Frame frame{source, destination, {}, {}};
    for (size_t i = 0; i < (nics_[nic].vnet_size ? segments : 1); i++) {
        Segment segment{};
        segment.from = incarnation_;
        segment.to = home ? world_.network.member(*home) : "";
        segment.sent_sequence = sequence_;
        segment.source_mac = source.value();
        segment.destination_mac = destination.value();
        segment.run = run_;
        segment.white_epoch = white_ ? epoch_ : 0;
        frame.segments.push_back(world_.ledger.segments.size());
        world_.ledger.segments.push_back(std::move(segment));
    }
    sequence_++;
    const std::vector<uint8_t> data = to_bytes(frame, nics_[nic].vnet_size);
    const hs_frame given{static_cast<uint32_t>(nic),
                         HS_FROM_GUEST,
                         data.data(),
                         data.size(),
                         nics_[nic].vnet_size,
                         0};
    const hs_verdict verdict =
        mediator_.frame(given, static_cast<int64_t>(now()) * 1000, frame.source);
    if (verdict == HS_PASS || mutated(Mutation::broadcast_through)) {
        to_network(nic, frame);
    }
    if (verdict == HS_HOLD_AND_RELEASE) {
        for (hs_frame held; mediator_.next_released(held, static_cast<int64_t>(now()) * 1000);) {
            const Frame ready = from_bytes(held.data, held.size, held.vnet_header_size);
            if (held.direction == HS_FROM_GUEST) {
                to_network(held.nic, ready);
            } else {
                guest_receives(held.nic, ready);
            }
        }
    }
}

void Member::to_network(size_t nic, const Frame &frame) {
    world_.network.send(nics_[nic].port, frame);
}

void Member::network_delivers(size_t nic, const Frame &frame) {
    if (stands_still() || !tap_.empty()) {
        tap_.emplace_back(nic, frame);
        return;
    }
    to_guest(nic, frame);
}

void Member::receive_forged(Mac source) {
    if (!table_.knows(source)) {
        return;
    }
    trace("receives a forged red frame");
    if (local_.state() == member::State::installed || local_.state() == member::State::arming ||
        local_.state() == member::State::armed) {
        run().forged = true;
    }
    if (local_.state() == member::State::arming) { // it is held, and forces the cut later
        world_.ledger.coverage.meet(local_.state(), Fault::red_frame);
    }
    const Mac red = table_.alias(table_.senders(source).front(), {Color::red, is_odd(epoch_)});
    network_delivers(0, {red, Mac(0xffff'ffff'ffff), {}, {}});
}

void Member::to_guest(size_t nic, const Frame &frame) {
    const std::vector<uint8_t> data = to_bytes(frame, nics_[nic].vnet_size);
    Frame natural = frame;
    const hs_frame given{
        static_cast<uint32_t>(nic), HS_TO_GUEST, data.data(), data.size(), nics_[nic].vnet_size, 0};
    const hs_verdict verdict =
        mediator_.frame(given, static_cast<int64_t>(now()) * 1000, natural.source);
    if (mutated(Mutation::keep_color)) {
        natural.source = frame.source;
    }
    if (verdict == HS_PASS || mutated(Mutation::skip_hold)) {
        guest_receives(nic, natural);
    }
    if (verdict == HS_HOLD_AND_CUT) {
        trace("sees the first red frame");
        world_.ledger.coverage.meet(local_.state(), Fault::red_frame);
        local_.red_frame();
    }
    local_.frame_received();
    post(5, [] {}); // no step is carried out inside the handling of a frame
}

bool Member::listens(size_t nic, Mac destination) const {
    const std::vector<Mac> &stations = nics_[nic].stations;
    return forwards_ || destination == nics_[nic].mac || destination.is_group() ||
           std::find(stations.begin(), stations.end(), destination) != stations.end();
}

void Member::guest_receives(size_t nic, const Frame &frame) {
    if (!listens(nic, frame.destination) || !frame.probe.empty()) {
        return; // flooded: not for this NIC
    }
    for (const uint64_t number : frame.segments) {
        Segment &segment = world_.ledger.segments[number];
        segment.deliveries.push_back({incarnation_, nic, sequence_});
        // A member that was started again while the others were in an epoch knows no aliases, so
        // its guest may see some. It has no part in that epoch.
        const auto sent_in = world_.ledger.runs.find(segment.run);
        const bool knows = sent_in != world_.ledger.runs.end() &&
                           sent_in->second.members.contains(name_) &&
                           sent_in->second.members.at(name_) == incarnation_;
        // Such a member may also have forwarded the frame, with the alias as its source.
        const bool sent_with_alias = table_.read(Mac(segment.source_mac)).has_value();
        if (frame.source.value() != segment.source_mac && knows && !sent_with_alias) {
            world_.ledger.violations.push_back("delivery: " + name_ + " received " +
                                               frame.source.to_string() + " as source of segment " +
                                               std::to_string(number));
        }
    }
    sequence_++;
    if (forwards_ && !frame.segments.empty()) {
        forward(nic, frame);
    }
}

// As a switch that has learned all addresses.
void Member::forward(size_t nic, const Frame &frame) {
    const bool own = std::any_of(nics_.begin(), nics_.end(),
                                 [&frame](const Nic &one) { return one.mac == frame.destination; });
    if (own || (!frame.destination.is_group() &&
                world_.network.has_port(nics_[nic].port, frame.destination))) {
        return;
    }
    for (size_t other = 0; other < nics_.size(); other++) {
        if (other != nic) {
            guest_sends(other, frame.source, frame.destination, frame.segments.size());
        }
    }
}

void Member::release_frames() {
    if (stands_still()) {
        return; // no NIC takes a frame
    }
    std::vector<std::pair<hs_direction, std::pair<size_t, Frame>>> released;
    for (hs_frame held; mediator_.next_released(held, static_cast<int64_t>(now()) * 1000);) {
        released.push_back(
            {held.direction, {held.nic, from_bytes(held.data, held.size, held.vnet_header_size)}});
    }
    if (mutated(Mutation::lose_held)) {
        released.clear();
    }
    if (mutated(Mutation::reverse_held)) {
        std::reverse(released.begin(), released.end());
    }
    // A guest that forwards answers at once here, so what it had sent before goes first.
    std::stable_partition(released.begin(), released.end(),
                          [](const auto &frame) { return frame.first == HS_FROM_GUEST; });
    for (const auto &[direction, frame] : released) {
        if (direction == HS_TO_GUEST && !mutated(Mutation::skip_hold)) {
            guest_receives(frame.first, frame.second);
        } else if (direction == HS_FROM_GUEST && !mutated(Mutation::broadcast_through)) {
            to_network(frame.first, frame.second);
        }
    }
    while (!tap_.empty()) {
        const auto [nic, frame] = std::move(tap_.front());
        tap_.pop_front();
        to_guest(nic, frame);
    }
}

} // namespace hotsnap::sim
