// SPDX-License-Identifier: GPL-2.0-or-later
#include "invariants.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "../names.h"

namespace hotsnap::sim {

Violations delivery(const Config &, const Ledger &ledger) {
    Violations violations;
    // The segments that each NIC of an incarnation received, in order: (sequence, segment).
    std::map<std::pair<Incarnation, size_t>, std::vector<std::pair<uint64_t, uint64_t>>> received;
    for (uint64_t number = 0; number < ledger.segments.size(); number++) {
        const Segment &segment = ledger.segments[number];
        for (const Delivery &delivery : segment.deliveries) {
            received[{delivery.to, delivery.nic}].push_back({delivery.sequence, number});
        }
        if (!segment.to.empty() && segment.deliveries.empty() && !segment.excused) {
            violations.push_back("delivery: segment " + std::to_string(number) +
                                 " was never delivered");
        }
    }
    for (auto &[nic, list] : received) {
        std::sort(list.begin(), list.end());
        // by sender, source and destination
        std::map<std::tuple<Incarnation, uint64_t, uint64_t>, uint64_t> last;
        for (const auto &[sequence, number] : list) {
            const Segment &segment = ledger.segments[number];
            const auto [at, first] = last.try_emplace(
                {segment.from, segment.source_mac, segment.destination_mac}, number);
            if (!first && number <= at->second) {
                violations.push_back("delivery: segment " + std::to_string(number) + " came " +
                                     (number == at->second ? "twice" : "out of order"));
            }
            at->second = number;
        }
    }
    for (const std::string &violation : ledger.violations) {
        if (violation.rfind("delivery:", 0) == 0) {
            violations.push_back(violation);
        }
    }
    return violations;
}

} // namespace hotsnap::sim
