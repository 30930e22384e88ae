// SPDX-License-Identifier: GPL-2.0-or-later
// The probe: a frame of our own that tells which NICs hear which, whether the network between them
// lets aliases through, and where in the stream of frames a NIC's cut lies.
//
// A broadcast with an EtherType for local experiments (IEEE 802, 0x88B5). Mediators take it off the
// way, so guests of members never see it; others have no use for it. At INSTALL it leaves twice
// with an alias as its source, then once with the NIC's own MAC: who hears the last alone sits
// behind a port that drops aliases. After the cut it leaves as a mark, with an alias, and twice,
// since one may be lost (Chandy and Lamport's marker): all that the NIC had sent before its cut is
// ahead of it. A NIC with several queues sends a mark through each of them, as they keep no common
// order.
//
// Switches learn ports from source MACs, and see none while frames bear aliases. So a NIC that
// begins to send for an address that others send for too (a virtual router that has moved, a bond
// that has failed over) sends a probe with that source first: frames to it come here from then on.
// The probe says whether the NIC has been cut by then: for who has not, the move lies in the
// future.
#ifndef HOTSNAP_NETWORK_PROBE_H
#define HOTSNAP_NETWORK_PROBE_H

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "network/frame.h"
#include "network/mac.h"

namespace hotsnap::network {

struct Probe {
    uint64_t epoch = 0;
    Mac nic; // the own MAC of the NIC that sends it
    enum class Kind : uint8_t { natural, alias, mark, moved, moved_red } kind = Kind::natural;
    uint16_t queue = 0; // that it is sent through

    bool is_move() const { return kind == Kind::moved || kind == Kind::moved_red; }

    // The frame, behind a virtio-net header of that size.
    std::vector<uint8_t> frame(Mac source, size_t vnet_size) const;
    static std::optional<Probe> parse(const FrameView &view);
};

} // namespace hotsnap::network
#endif
