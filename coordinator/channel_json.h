// SPDX-License-Identifier: GPL-2.0-or-later
// What members tell each other about MACs and channels, as JSON:
// counts {"52:54:00:00:00:01>52:54:00:00:00:02":17, ...}, tables [{"name":"db","macs":[..]}, ...].
#ifndef HOTSNAP_CHANNEL_JSON_H
#define HOTSNAP_CHANNEL_JSON_H

#include "channel_counts.h"
#include "json.h"
#include "member_table.h"

namespace hotsnap {

Json counts_to_json(const PairCounts &counts);
PairCounts counts_from_json(const Json &json); // throws BadInput

Json members_to_json(const std::vector<Member> &members);
std::vector<Member> members_from_json(const Json &json); // throws BadInput

Mac mac_from_json(const Json &json); // throws BadInput

} // namespace hotsnap
#endif
