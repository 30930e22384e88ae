// SPDX-License-Identifier: GPL-2.0-or-later
// The facts that an initiator learns from the members of a run, and the JSON made of them
// (docs/formats/protocol.md, "Result").
#ifndef HOTSNAP_WIRE_MANIFEST_H
#define HOTSNAP_WIRE_MANIFEST_H

#include <string>
#include <vector>

#include "wire/messages.h"
#include "wire/request.h"
#include "wire/run_log.h"

namespace hotsnap::cluster {

struct MemberRecord {
    Prepared prepared;
    TransientSnapFin cut;
    ChannelsFin channels;
    Json report = Json::object(); // of FULL_SNAP_FIN, or of LOADED and STARTED
};

struct RunRecord {
    uint64_t epoch = 0;
    uint64_t lost_between = 0;         // white segments that no member got, and none was to expect
    std::vector<MemberRecord> members; // parallel to the request's
};

// For member::PublishWork, and the result of a snapshot.
Json snapshot_manifest(const Request &request, const RunRecord &record, const RunLog &log);
// The result of a restore.
Json restore_result(const Request &request, const RunRecord &record, const RunLog &log);

} // namespace hotsnap::cluster
#endif
