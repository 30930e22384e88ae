// SPDX-License-Identifier: GPL-2.0-or-later
// The JSON of MACs and channels in messages between members:
// counts {"52:54:00:00:00:01>52:54:00:00:00:02":17, ...}, tables
// [{"name":"db","nics":[{"nic":"net0","mac":"52:54:..","sources":[..],"complete":true,
// "addresses":["10.0.0.1",..]}, ..]}, ..]; without addresses the last one is left out.
#ifndef HOTSNAP_NETWORK_CHANNEL_JSON_H
#define HOTSNAP_NETWORK_CHANNEL_JSON_H

#include "base/json.h"
#include "network/channel_counts.h"
#include "network/contacts.h"
#include "network/member_table.h"

namespace hotsnap::network {

Json counts_to_json(const PairCounts &counts);
PairCounts counts_from_json(const Json &json); // throws BadInput

Json nics_to_json(const std::vector<MemberNic> &nics);
std::vector<MemberNic> nics_from_json(const Json &json); // throws BadInput

Json members_to_json(const std::vector<Member> &members);
std::vector<Member> members_from_json(const Json &json); // throws BadInput

// {"until_us":N,"first_us":{"db":N,..}}
Json contacts_to_json(const ContactRecord &record, const std::vector<Member> &members);

// Those of a NIC; none when it has none.
std::vector<IpAddress> addresses_from_json(const Json &nic); // throws BadInput

Mac mac_from_json(const Json &json); // throws BadInput

} // namespace hotsnap::network
#endif
