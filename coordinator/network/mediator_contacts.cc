// SPDX-License-Identifier: GPL-2.0-or-later
// Notes to which members the guest speaks after the cut.
#include <algorithm>

#include "network/mediator.h"

namespace hotsnap::network {

namespace {

// Of all members together, so that the manifest of a large cluster can be read by QEMU's parser.
constexpr size_t most_listed = 65536;
constexpr size_t fewest_each = 8, most_each = 256;

} // namespace

// A frame to a group names no receiver: who waits for it can wait longer. One for an address of
// several members counts for each of them.
void Mediator::note_contact(Mac destination, int64_t now_ns) {
    if (destination.is_group()) {
        return;
    }
    for (const uint32_t source : table_.senders(destination)) {
        const uint32_t member = table_.nics()[table_.sources()[source].nic].member;
        if (member != self_) {
            contacts_.note(member, now_ns);
        }
    }
}

// What waits on its way out is in the record, and leaves as soon as the restored guest runs.
void Mediator::begin_contacts(int64_t now_ns) {
    if (state_ != State::red && state_ != State::ended) {
        return;
    }
    contacts_.begin(now_ns);
    for (const HeldFrame &frame : queues_[HS_FROM_GUEST].frames()) {
        if (const auto view =
                FrameView::parse(frame.data.data(), frame.data.size(), frame.vnet_size)) {
            note_contact(view->destination(), now_ns);
        }
    }
}

std::optional<ContactRecord> Mediator::contacts(int64_t now_ns) const {
    const size_t members = std::max<size_t>(table_.members().size(), 1);
    return contacts_.record(std::clamp(most_listed / members, fewest_each, most_each), now_ns);
}

} // namespace hotsnap::network
