// SPDX-License-Identifier: GPL-2.0-or-later
#include "bundle_stages.h"

#include <algorithm>
#include <utility>

namespace hotsnap::cluster {

Stage prepare_stage(const Request &request, RunRecord &record) {
    return {.phase = "prepare",
            .answer = answer<Prepared>([&record](size_t member, const Prepared &m) {
                record.members[member].prepared = m;
                return "";
            }),
            .deadline_us = request.prepare_timeout_us};
}

std::string next_epoch(const RunRecord &record, uint64_t &epoch) {
    uint64_t newest = 0;
    for (const MemberRecord &member : record.members) {
        newest = std::max(newest, member.prepared.last_epoch);
    }
    if (newest == UINT64_MAX) {
        return "the epoch numbers are used up; a member reports an impossible one";
    }
    epoch = newest + 1;
    return "";
}

Stage full_stage(const Request &request, RunRecord &record, std::function<void()> begin) {
    return {.phase = "full",
            .begin = std::move(begin),
            .answer = answer<FullSnapFin>([&record](size_t member, const FullSnapFin &m) {
                record.members[member].report = m.report;
                return "";
            }),
            .deadline_us = request.full_timeout_us,
            .silence_counts = true,
            .loss = Loss::aborts_unless_answered, // the member's part is durable
            .completes = true};
}

Stage publish_stage(InitiatorEngine &engine, std::function<Json()> manifest) {
    return {.phase = "publish",
            .begin = [&engine, manifest = std::move(
                                   manifest)] { engine.work(member::PublishWork{manifest()}); },
            .loss = Loss::is_noted,
            .cancels = false,
            .decided_by =
                [](const member::LocalEvent &event) {
                    return std::holds_alternative<member::Published>(event);
                },
            .failure = "cannot publish the bundle: "};
}

} // namespace hotsnap::cluster
