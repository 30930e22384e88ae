// SPDX-License-Identifier: GPL-2.0-or-later
// What a mediator reads of ARP, IPv6 neighbor discovery and IP. VLAN tags are skipped: a router may
// well stand between two VLANs.
#ifndef HOTSNAP_NETWORK_IP_PACKET_H
#define HOTSNAP_NETWORK_IP_PACKET_H

#include <optional>

#include "network/frame.h"
#include "network/ip_address.h"

namespace hotsnap::network {

// The routable address that the frame's sender tells its neighbors it is to be reached at: the
// sender's of ARP, the source of a neighbor solicitation, the target of an advertisement. None in
// other frames, nor in those that ask whether an address is free.
std::optional<IpAddress> claimed_address(const FrameView &view);

struct IpEnds {
    IpAddress source;
    IpAddress destination;
};
// None when it is no IP packet.
std::optional<IpEnds> ip_ends(const FrameView &view);

} // namespace hotsnap::network
#endif
