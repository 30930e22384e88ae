// SPDX-License-Identifier: GPL-2.0-or-later
// The IP addresses that were claimed in one direction of a NIC (network/ip_packet.h), each with the
// MAC that claimed it last. Bounded: the one that was silent for the longest makes room.
//
// From the guest, they are the addresses that are reached through the NIC; towards the guest, those
// of its neighbors. Age alone takes none away: neighbors that go on talking to each other need not
// ask for their addresses again. Few frames claim an address, so a search may look at all entries.
#ifndef HOTSNAP_NETWORK_ADDRESS_TABLE_H
#define HOTSNAP_NETWORK_ADDRESS_TABLE_H

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <new>
#include <vector>

#include "network/ip_address.h"
#include "network/mac.h"

namespace hotsnap::network {

class AddressTable {
  public:
    struct Entry {
        IpAddress address;
        Mac mac;
        int64_t last_ns = 0; // 0: free
    };

    // Without memory for the table, the address stays unknown.
    void learn(const IpAddress &address, Mac mac, int64_t now_ns) {
        if (!entries_) {
            entries_.reset(new (std::nothrow) Entries());
        }
        if (entries_) {
            Entry *entry = find(address);
            if (!entry) {
                entry = std::min_element(
                    entries_->begin(), entries_->end(),
                    [](const Entry &a, const Entry &b) { return a.last_ns < b.last_ns; });
            }
            *entry = {address, mac, std::max<int64_t>(now_ns, 1)};
        }
    }
    void forget(const IpAddress &address) {
        if (Entry *entry = find(address)) {
            *entry = {};
        }
    }
    bool knows(const IpAddress &address) const { return find(address); }

    std::vector<Entry> all() const { // the latest first
        std::vector<Entry> list;
        if (entries_) {
            std::copy_if(entries_->begin(), entries_->end(), std::back_inserter(list),
                         [](const Entry &entry) { return entry.last_ns != 0; });
        }
        std::sort(list.begin(), list.end(), [](const Entry &a, const Entry &b) {
            return a.last_ns != b.last_ns ? a.last_ns > b.last_ns : a.address < b.address;
        });
        return list;
    }

  private:
    using Entries = std::array<Entry, 256>;

    Entry *find(const IpAddress &address) const {
        const auto is_it = [&](const Entry &entry) {
            return entry.last_ns != 0 && entry.address == address;
        };
        if (!entries_) {
            return nullptr;
        }
        const auto at = std::find_if(entries_->begin(), entries_->end(), is_it);
        return at == entries_->end() ? nullptr : &*at;
    }

    std::unique_ptr<Entries> entries_; // many NICs see no claim at all
};

} // namespace hotsnap::network
#endif
