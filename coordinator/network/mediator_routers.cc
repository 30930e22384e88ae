// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Frames between members that pass through a router that is no member. Such a router sends them
 * with a MAC of its own, so they bear no color, and nobody records those that it holds at the cut.
 * What gives it away are the IP addresses, which it leaves as they are.
 *
 * Each mediator learns the addresses that its guest claims towards its neighbors. PREPARED lists
 * them, and INSTALL tells them to all. An epoch's mediators then count the frames that bear another
 * member's address, and come from a MAC, or go to one, that no member sends for.
 */
#include <algorithm>

#include "network/ip_packet.h"
#include "network/mediator.h"

namespace hotsnap::network {

// Whether what this NIC hears from that source comes from our guest, by way of another NIC on the
// same network. A station that the guest forwards for is a source at the other NIC, but none here.
bool Mediator::is_our_own(uint32_t nic, Mac mac) const {
    return nics_[nic].sources.find(mac) ||
           std::any_of(nics_.begin(), nics_.end(),
                       [mac](const Nic &own) { return own.present && own.mac == mac; });
}

/*
 * A guest claims its own addresses, those of the stations behind it, and, for proxy ARP, those that
 * lie on its other side. A neighbor that claims an address of ours has taken it over.
 */
void Mediator::learn_claimed_address(const Input &in, Mac source) {
    const std::optional<IpAddress> address = claimed_address(in.view);
    if (!address || source.is_group()) {
        return;
    }
    Nic &nic = nics_[in.frame.nic];
    if (in.frame.direction == HS_FROM_GUEST) {
        nic.addresses.learn(*address, source, in.now_ns);
    } else if (!is_our_own(in.frame.nic, source)) {
        nic.addresses.forget(*address);
        if (nics_.size() > 1) {
            nic.claimed_by_neighbors.learn(*address, source, in.now_ns);
        }
    }
}

/*
 * Left out are addresses of sources that are not listed, since frames from them would look like a
 * router's; and those that a neighbor claims on another NIC: the guest forwards for that neighbor,
 * who is a member itself, and lists them, or is none.
 */
std::vector<IpAddress> Mediator::list_addresses(uint32_t index,
                                                const std::vector<Mac> &sources) const {
    const auto is_elsewhere = [&](const IpAddress &address) {
        for (uint32_t other = 0; other < nics_.size(); other++) {
            if (other != index && nics_[other].present &&
                nics_[other].claimed_by_neighbors.knows(address)) {
                return true;
            }
        }
        return false;
    };
    const Nic &nic = nics_[index];
    std::vector<IpAddress> list;
    for (const AddressTable::Entry &entry : nic.addresses.all()) {
        const bool is_listed = entry.mac == nic.mac || std::find(sources.begin(), sources.end(),
                                                                 entry.mac) != sources.end();
        if (is_listed && !is_elsewhere(entry.address) && list.size() < most_addresses) {
            list.push_back(entry.address);
        }
    }
    return list;
}

/*
 * A frame to the guest without an alias. A source that no member is known to send for is a router's
 * then, or a new one of a member that was not armed when it sent the frame: it cannot be placed in
 * either case. A copy that a switch has flooded is on its way to somebody else.
 */
void Mediator::watch_received(const Input &in) {
    const Mac source = in.view.source(), destination = in.view.destination();
    if (source.is_group() || table_.knows(source) ||
        (!destination.is_group() && !table_.source(nics_[in.frame.nic].in_table, destination))) {
        return;
    }
    const std::optional<IpEnds> ends = ip_ends(in.view);
    stats_.routed_received += ends && table_.is_of_another(ends->source, self_);
}

/*
 * A frame from the guest. Only one to a MAC that is surely no member's leaves without a color
 * before coloring ends; others wait, and so have their place.
 */
void Mediator::watch_sent(const Input &in) {
    const Mac destination = in.view.destination();
    if (destination.is_group() || table_.knows(destination) ||
        !is_neighbor(in.frame.nic, destination)) {
        return;
    }
    const std::optional<IpEnds> ends = ip_ends(in.view);
    stats_.routed_sent += ends && table_.is_of_another(ends->destination, self_);
}

} // namespace hotsnap::network
