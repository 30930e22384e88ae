// SPDX-License-Identifier: GPL-2.0-or-later
// The initiator's view of all channels of an epoch: which NIC gets what which other has sent.
//
// A channel is a hop: it leads from the NIC that sends a frame to the NIC that gets it, whatever
// addresses the frame bears. The sender knows only the frame's destination. If just one NIC that it
// has a path to sends for that address, that NIC gets all: its member waits for them. If several
// do (two members on one segment with one virtual address) or none (an address that lies behind a
// member that has not sent for it yet), all members' counts are compared at the end.
#ifndef HOTSNAP_NETWORK_HOPS_H
#define HOTSNAP_NETWORK_HOPS_H

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "network/channel_counts.h"
#include "network/member_table.h"

namespace hotsnap::network {

class Hops {
  public:
    Hops() = default;
    explicit Hops(MemberTable table) : table_(std::move(table)) {}

    // What a member has sent; which NICs its own hear, and this may grow. Both return why it cannot
    // be true, or nothing.
    std::string send(uint32_t member, const PairCounts &sent);
    std::string hear(uint32_t member, const PairCounts &heard);
    // Why the network between the members drops frames with an alias, or nothing.
    std::string obstacle() const;
    struct Expected {
        PairCounts white; // segments that are on the way to the member, or have arrived
        PairCounts marks; // (other NIC, own NIC): 1 where the other's mark is due
    };
    std::vector<Expected> expected(); // by member
    // The segments that are missing, of those that no member was told to expect. `got`: by member,
    // of channels that nothing was expected of. Where several members send for the address, each
    // frame comes to one of them. Where none does, the network brings each to all, and the member
    // that has got fewest tells.
    uint64_t lost(const std::vector<PairCounts> &got) const;

  private:
    bool linked(uint32_t a, uint32_t b) const { return links_.contains(std::minmax(a, b)); }
    // The members with a NIC that has a path to the NIC with that MAC.
    std::set<uint32_t> hearers(Mac from) const;
    std::string describe(uint32_t nic) const;

    MemberTable table_;
    PairCounts sent_;
    std::set<std::pair<uint32_t, uint32_t>> links_;           // NICs, the smaller index first
    std::map<std::pair<uint32_t, uint32_t>, uint64_t> heard_; // (from, to)
    // Of sent_, those that no member was told to expect.
    struct Shared {
        uint64_t segments;
        std::set<uint32_t> homes; // members with a path that send for the address
    };
    std::map<Pair, Shared> shared_;
};

} // namespace hotsnap::network
#endif
