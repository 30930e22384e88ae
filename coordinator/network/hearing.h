// SPDX-License-Identifier: GPL-2.0-or-later
// Which NICs of the others our NICs hear in this epoch, with their own MAC and with an alias.
//
// Probes come before the table when their sender was quicker than we: they are kept until then.
#ifndef HOTSNAP_NETWORK_HEARING_H
#define HOTSNAP_NETWORK_HEARING_H

#include <cstddef>
#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

#include "network/channel_counts.h"
#include "network/mac.h"
#include "network/member_table.h"
#include "network/probe.h"

namespace hotsnap::network {

// How a NIC was heard, as bits. The last: before this epoch, by its own MAC.
inline constexpr uint8_t heard_natural = 1, heard_alias = 2, heard_mark = 4, heard_before = 8;

class Hearing {
  public:
    // Before the table is there: to be asked for at start().
    void note_early(Mac own, const Probe &probe) {
        if (early_.size() >= most_early) {
            early_.erase(early_.begin());
        }
        early_[{probe.epoch, own, probe.nic}] |= bit(probe);
    }
    void start(const MemberTable &table, uint64_t epoch) {
        width_ = table.nics().size();
        heard_.clear();
        for (const auto &[key, bits] : early_) {
            const auto &[of_epoch, own, other] = key;
            const auto to = table.nic(own), from = table.nic(other);
            if (of_epoch == epoch && to && from) {
                note(*to, *from, bits);
            }
        }
        early_.clear();
    }
    void note(uint32_t own, uint32_t other, uint8_t bits) {
        auto at = heard_.find(own);
        if (at == heard_.end()) {
            at = heard_.emplace(own, std::vector<uint8_t>(width_)).first;
        }
        at->second[other] |= bits;
    }
    uint8_t bits(uint32_t own, uint32_t other) const {
        const auto at = heard_.find(own);
        return at == heard_.end() ? uint8_t{0} : at->second[other];
    }
    // (own MAC of the NIC heard, own MAC of ours): bits
    PairCounts all(const MemberTable &table) const {
        PairCounts pairs;
        for (const auto &[own, others] : heard_) {
            for (uint32_t other = 0; other < others.size(); other++) {
                if (others[other] != 0) {
                    pairs[{table.nics()[other].mac, table.nics()[own].mac}] = others[other];
                }
            }
        }
        return pairs;
    }

    static uint8_t bit(const Probe &probe) {
        return probe.is_move() ? heard_natural
                               : static_cast<uint8_t>(1 << static_cast<int>(probe.kind));
    }

  private:
    static constexpr size_t most_early = 4096;

    std::map<std::tuple<uint64_t, Mac, Mac>, uint8_t> early_; // (epoch, own, other)
    std::map<uint32_t, std::vector<uint8_t>> heard_;          // by NICs' indices in the table
    size_t width_ = 0;
};

} // namespace hotsnap::network
#endif
