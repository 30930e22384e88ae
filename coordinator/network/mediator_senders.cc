// SPDX-License-Identifier: GPL-2.0-or-later
// Which NIC sends for an address now. Several can have sent for it lately: the NICs of a bond,
// virtual routers, switches between which a station has moved.
//
// Switches know by the frames that they have seen, and a restore takes the guests back in time, but
// no switch. So the record of the channels begins with a probe for each address that a NIC sends
// for beside its own. At the restore these leave when the member has loaded, before any member
// runs, and once more when it starts; so frames to the address come there. For its own address each
// NIC sends such a probe at the load, and is announced by QEMU from the start on, for about a
// second, as after a migration; not if another NIC of the member has the address now.
#include "network/mediator.h"

namespace hotsnap::network {

namespace {

// A NIC may hear its own member's frames, from another NIC on the same switch, a little later than
// they were sent. Who takes an address over is heard for longer.
constexpr int64_t echo_ns = 100'000'000;
constexpr uint64_t no_epoch = 0; // of a probe that is sent at a restore

} // namespace

void Mediator::note_sent(uint32_t index, Mac source, int64_t now_ns) {
    Nic &nic = nics_[index];
    if (source == nic.mac) {
        nic.own.last_ns = now_ns;
    } else if (!source.is_group()) {
        nic.sources.learn(source, now_ns);
    }
}

// Another member has announced that it sends for the address from now on. It says so once, and
// bears an alias afterwards, so what it sends is no other sign of it. The address stays among the
// recent ones: it may come back.
void Mediator::note_moved(Mac source, int64_t now_ns) {
    for (Nic &nic : nics_) {
        if (source == nic.mac) {
            nic.own.lost_ns = now_ns;
        } else if (SourceTable::Entry *entry = nic.sources.find(source)) {
            entry->lost_ns = now_ns;
        }
    }
}

const SourceTable::Entry *Mediator::sent_for(const Nic &nic, Mac source) {
    return source == nic.mac ? &nic.own : nic.sources.find(source);
}

bool Mediator::sends_now(uint32_t index, Mac source) const {
    const SourceTable::Entry *ours = sent_for(nics_[index], source);
    if (ours && ours->is_lost()) {
        return false;
    }
    const int64_t sent = ours ? ours->last_ns : 0;
    for (uint32_t other = 0; other < nics_.size(); other++) {
        const Nic &nic = nics_[other];
        const SourceTable::Entry *there = sent_for(nic, source);
        const SourceTable::Entry *heard = nic.neighbors.find(source);
        if (nic.present && ((other != index && there && there->last_ns > sent) ||
                            (heard && heard->last_ns > sent + echo_ns))) {
            return false;
        }
    }
    return true;
}

bool Mediator::has_own_address(uint32_t index) const {
    return index >= nics_.size() || sends_now(index, nics_[index].mac);
}

std::vector<uint8_t> Mediator::announcement(const Nic &nic, Mac source) {
    return Probe{no_epoch, nic.mac, Probe::Kind::moved, 0}.frame(source, nic.vnet_size);
}

bool Mediator::announce_own(uint32_t index, hs_frame &frame) {
    if (index >= nics_.size() || !nics_[index].present || !has_own_address(index)) {
        return false;
    }
    const Nic &nic = nics_[index];
    released_ = announcement(nic, nic.mac);
    frame = {index, HS_FROM_GUEST, released_.data(), released_.size(), nic.vnet_size, 0};
    return true;
}

void Mediator::record_sender(uint32_t index, Mac source) {
    const Nic &nic = nics_[index];
    stats_.announced +=
        record_.append({index, 0, true, now_ns_, nic.vnet_size, announcement(nic, source)});
}

std::set<std::pair<uint32_t, Mac>> Mediator::moved_while_frames_wait() {
    std::set<std::pair<uint32_t, Mac>> moved;
    for (const HeldFrame &frame : queues_[HS_FROM_GUEST].frames()) {
        const auto view = FrameView::parse(frame.data.data(), frame.data.size(), frame.data.size(),
                                           frame.vnet_size);
        for (uint32_t nic = 0; view && nic < nics_.size(); nic++) {
            const SourceTable::Entry *sent = sent_for(nics_[nic], view->source());
            if (nic != frame.nic && nics_[nic].present && sent && sent->seen() &&
                sends_now(nic, view->source())) {
                moved.insert({nic, view->source()});
            }
        }
    }
    return moved;
}

void Mediator::record_senders() {
    for (uint32_t index = 0; index < nics_.size(); index++) {
        const Nic &nic = nics_[index];
        if (!nic.present) {
            continue;
        }
        for (const Mac source : nic.sources.recent(now_ns_ - remembered_ns, most_sources).macs) {
            if (sends_now(index, source)) {
                record_sender(index, source);
            }
        }
    }
}

void Mediator::played(const hs_frame &frame, int64_t now_ns) {
    const auto view = FrameView::parse(frame.data, frame.size, frame.size, frame.vnet_header_size);
    if (view && frame.direction == HS_FROM_GUEST && frame.nic < nics_.size()) {
        note_sent(frame.nic, view->source(), now_ns);
    }
}

} // namespace hotsnap::network
