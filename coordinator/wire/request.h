// SPDX-License-Identifier: GPL-2.0-or-later
// The user's request to an initiator (hs_coordinator_snapshot, hs_coordinator_restore).
#ifndef HOTSNAP_WIRE_REQUEST_H
#define HOTSNAP_WIRE_REQUEST_H

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"

namespace hotsnap::cluster {

// Throws BadInput when a snapshot cannot have this tag, which names its folder and its disks'
// overlays, or cannot lie in this folder. Each member checks both: it writes the files, and does
// not rely on a check by the initiator.
void check_place(const std::string &tag, const std::string &directory);

struct Request {
    enum class Kind : uint8_t { snapshot, barrier, restore };
    enum class Content : uint8_t { all, disks };
    enum class Mode : uint8_t { hot, precopy, stop_and_copy };
    struct Target {
        std::string name;
        std::string address; // may be empty for the initiator itself
    };

    Kind kind = Kind::snapshot;
    std::string tag;
    std::string directory;
    std::string bundle;
    std::vector<Target> members; // in the order given; the initiator is added in front if missing
    size_t self = 0;             // index of the initiator in it
    Content content = Content::all; // what the snapshot is of, for its manifest
    Mode mode = Mode::hot;          // when memory is copied
    bool coloring = true;
    uint64_t duration_us = 0; // from the cut to the end of all copies; 0: as soon as each can
    bool strict = false;      // the run fails when a member cannot end by then
    Json options = Json::object();

    uint64_t prepare_timeout_us = 60'000'000;
    uint64_t arm_timeout_us = 30'000'000;
    uint64_t cut_timeout_us = 10'000'000;
    uint64_t full_timeout_us = 0; // none
    uint64_t abort_timeout_us = 10'000'000;
    uint64_t load_timeout_us = 0; // none
    uint64_t start_timeout_us = 30'000'000;
    uint64_t drain_us = 200'000;
    uint64_t hold_us = 200'000; // the longest hold of disk requests, of a barrier
    uint64_t settle_us = 10'000;
    uint64_t heartbeat_us = 1'000'000;
    uint64_t silence_us = 30'000'000;

    // The kind of a snapshot that "cut" names. Throws BadInput.
    static Kind snapshot_kind(const Json &json);
    // Throws BadInput.
    static Request parse(Kind kind, const std::string &self_name, const Json &json);
};

const char *to_string(Request::Mode mode);

} // namespace hotsnap::cluster
#endif
