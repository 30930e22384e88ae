// SPDX-License-Identifier: GPL-2.0-or-later
#include "legacy_c_api.h"

#include "member/handles.h"
#include "member/work_json.h"

namespace hotsnap::cluster {

std::optional<member::LocalEvent> legacy_event(hs_local_kind kind, const char *json) {
    const auto name = [kind] {
        switch (kind) {
        case HS_LOCAL_PREPARED:
            return "PREPARED";
        case HS_LOCAL_INSTALLED:
            return "INSTALLED";
        case HS_LOCAL_ARMED:
            return "ARMED";
        case HS_LOCAL_CUT:
            return "CUT";
        case HS_LOCAL_CHANNELS_FIN:
            return "CHANNELS_FIN";
        case HS_LOCAL_FULL_FIN:
            return "FULL_FIN";
        case HS_LOCAL_PROGRESS:
            return "PROGRESS";
        case HS_LOCAL_PUBLISHED:
            return "PUBLISHED";
        case HS_LOCAL_ABORTED:
            return "ABORTED";
        case HS_LOCAL_LOADED:
            return "LOADED";
        case HS_LOCAL_STARTED:
            return "STARTED";
        case HS_LOCAL_FAILED:
            return "FAILED";
        }
        return "";
    };
    return member::event_of(name(), json);
}

} // namespace hotsnap::cluster

hs_action_kind hs_work_kind(const hs_work *work) {
    // In the order of member::LocalWork.
    static constexpr hs_action_kind kinds[] = {
        HS_DO_PREPARE, HS_DO_INSTALL,        HS_DO_ARM,          HS_DO_CUT,
        HS_DO_EXPECT,  HS_DO_CLOSE_CHANNELS, HS_DO_END_COLORING, HS_DO_PUBLISH,
        HS_DO_COMMIT,  HS_DO_ABORT,          HS_DO_LOAD,         HS_DO_START,
    };
    static_assert(std::size(kinds) == std::variant_size_v<hotsnap::member::LocalWork>);
    return kinds[work->work.index()];
}
