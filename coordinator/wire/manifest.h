// SPDX-License-Identifier: GPL-2.0-or-later
// What an initiator learns about a run, and the JSON made of it (docs/formats/protocol.md,
// "Result").
#ifndef HOTSNAP_WIRE_MANIFEST_H
#define HOTSNAP_WIRE_MANIFEST_H

#include <string>
#include <vector>

#include "wire/messages.h"
#include "wire/request.h"

namespace hotsnap::cluster {

struct MemberRecord {
    Prepared prepared;
    TransientSnapFin cut;
    ChannelsFin channels;
    Json report = Json::object(); // of FULL_SNAP_FIN, or of LOADED and STARTED
};

struct RunRecord {
    struct Moment {
        std::string phase;
        uint64_t at_us; // CLOCK_MONOTONIC of the initiator's host
    };

    uint64_t epoch = 0;
    std::vector<MemberRecord> members; // parallel to the request's
    std::vector<Moment> timeline;
    std::vector<std::string> warnings;
};

// For HS_DO_PUBLISH.
Json snapshot_manifest(const Request &request, const RunRecord &record);
// For HS_SAY_FINISHED of a restore.
Json restore_result(const Request &request, const RunRecord &record);

} // namespace hotsnap::cluster
#endif
