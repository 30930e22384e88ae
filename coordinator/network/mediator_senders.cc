// SPDX-License-Identifier: GPL-2.0-or-later
// Which NIC sends for an address now. Several can have sent for it lately: the NICs of a bond,
// virtual routers, switches between which a station has moved.
//
// Switches know by the frames that they have seen, and a restore takes the guests back in time, but
// no switch. So the record of the channels begins with a probe for each address that a NIC sends
// for beside its own: at the restore these leave first, and frames to the address come there. For
// its own address each NIC is announced by QEMU, for about a second, as after a migration; not if
// another NIC of the member has it now.
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

void Mediator::record_senders() {
    for (uint32_t index = 0; index < nics_.size(); index++) {
        const Nic &nic = nics_[index];
        if (!nic.present) {
            continue;
        }
        for (const Mac source : nic.sources.recent(now_ns_ - remembered_ns, most_sources).macs) {
            const Probe probe{no_epoch, nic.mac, Probe::Kind::moved, 0};
            stats_.announced +=
                sends_now(index, source) && record_.append({index, 0, true, now_ns_, nic.vnet_size,
                                                            probe.frame(source, nic.vnet_size)});
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
