// SPDX-License-Identifier: GPL-2.0-or-later
// Who speaks to whom first, as a bundle's manifest tells it (docs/formats/bundle.md, `contacts`).
#ifndef HOTSNAP_COORDINATOR_CONTACT_GRAPH_H
#define HOTSNAP_COORDINATOR_CONTACT_GRAPH_H

#include <string>
#include <vector>

#include "base/json.h"
#include "restore_line.h"

namespace hotsnap::cluster {

// Of the members with these names, in their order. The contacts are hints: of a member whose hints
// are missing, or in any way not as described, nothing is known. Never throws BadInput.
ContactGraph contact_graph(const Json &manifest, const std::vector<std::string> &members);

} // namespace hotsnap::cluster
#endif
