// SPDX-License-Identifier: GPL-2.0-or-later
// The source MACs that were seen in one direction of a NIC, bounded: a guest that makes up a source
// for each frame costs no more than any other. The oldest of a set makes room for a new one.
//
// From the guest, they are the addresses that the NIC sends for: its guest's containers, the slaves
// of a bond, the stations behind a bridge. Towards the guest, they are its neighbors.
#ifndef HOTSNAP_NETWORK_SOURCE_TABLE_H
#define HOTSNAP_NETWORK_SOURCE_TABLE_H

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "network/mac.h"

namespace hotsnap::network {

class SourceTable {
  public:
    struct Entry {
        Mac mac;
        int64_t first_ns = 0;
        int64_t last_ns = 0; // 0: free
        int64_t lost_ns = 0; // when another NIC was heard to take it over; 0: never

        bool seen() const { return last_ns != 0; }
        bool is_lost() const { return lost_ns != 0 && lost_ns >= last_ns; }
    };

    // Time never stands at 0 here: an entry with that time would be free. Without memory for the
    // table, the source counts as forgotten.
    void learn(Mac mac, int64_t now_ns) {
        now_ns = std::max<int64_t>(now_ns, 1);
        if (!sets_) {
            sets_.reset(new (std::nothrow) Sets());
        }
        if (!sets_) {
            forgotten_ns_ = now_ns;
            return;
        }
        Set &set = (*sets_)[set_of(mac)];
        Entry *oldest = &set[0];
        for (Entry &entry : set) {
            if (entry.mac == mac && entry.seen()) {
                entry.last_ns = now_ns;
                return;
            }
            if (entry.last_ns < oldest->last_ns) {
                oldest = &entry;
            }
        }
        forgotten_ns_ = std::max(forgotten_ns_, oldest->last_ns);
        *oldest = {mac, now_ns, now_ns, 0};
    }

    // Null when it was not seen, or long ago.
    Entry *find(Mac mac) {
        if (!sets_) {
            return nullptr;
        }
        for (Entry &entry : (*sets_)[set_of(mac)]) {
            if (entry.mac == mac && entry.seen()) {
                return &entry;
            }
        }
        return nullptr;
    }
    const Entry *find(Mac mac) const { return const_cast<SourceTable *>(this)->find(mac); }

    struct Recent {
        std::vector<Mac> macs; // the latest first
        bool complete = true;  // no other was seen since then
    };
    // Those seen since `since_ns`, at most `most` of them.
    Recent recent(int64_t since_ns, size_t most) const {
        std::vector<Entry> entries;
        if (sets_) {
            for (const Set &set : *sets_) {
                for (const Entry &entry : set) {
                    if (entry.seen() && entry.last_ns >= since_ns) {
                        entries.push_back(entry);
                    }
                }
            }
        }
        std::sort(entries.begin(), entries.end(), [](const Entry &a, const Entry &b) {
            return a.last_ns != b.last_ns ? a.last_ns > b.last_ns : a.mac < b.mac;
        });
        Recent recent;
        recent.complete = entries.size() <= most && forgotten_ns_ < std::max<int64_t>(since_ns, 1);
        for (size_t i = 0; i < std::min(most, entries.size()); i++) {
            recent.macs.push_back(entries[i].mac);
        }
        return recent;
    }

  private:
    using Set = std::array<Entry, 8>;
    using Sets = std::array<Set, 64>;

    static size_t set_of(Mac mac) {
        return static_cast<size_t>((mac.value() * 0x9e37'79b9'7f4a'7c15) >> 58);
    }

    int64_t forgotten_ns_ = 0;   // the latest time at which a source was seen that made room
    std::unique_ptr<Sets> sets_; // most NICs see few sources, and many none
};

} // namespace hotsnap::network
#endif
