// SPDX-License-Identifier: GPL-2.0-or-later
#include "local_json.h"

#include "network/channel_json.h"

namespace hotsnap::sim {

using namespace hotsnap::member;

std::optional<LocalWork> work_of(const hs_action &action) {
    const std::string text = action.text ? action.text : "";
    const auto json = [&] { return parse_json(text); };
    switch (action.kind) {
    case HS_DO_PREPARE: {
        const Json job = json();
        return PrepareWork{get_string(job, "run"),
                           get_string(job, "tag"),
                           get_string(job, "directory"),
                           get_string(job, "initiator"),
                           get_string(job, "role") == "initiator",
                           get_bool(job, "coloring", true),
                           get_object(job, "options", Json::object())};
    }
    case HS_DO_INSTALL: {
        const Json job = json();
        return InstallWork{get_uint(job, "epoch"),
                           network::members_from_json(get_array(job, "members"))};
    }
    case HS_DO_ARM:
        return ArmWork{};
    case HS_DO_CUT:
        return CutWork{};
    case HS_DO_EXPECT:
        return ExpectWork{network::counts_from_json(json())};
    case HS_DO_CLOSE_CHANNELS:
        return CloseChannelsWork{};
    case HS_DO_END_COLORING:
        return EndColoringWork{};
    case HS_DO_PUBLISH:
        return PublishWork{json()};
    case HS_DO_COMMIT: {
        const Json job = json();
        return CommitWork{get_bool(job, "in_doubt", false), get_string(job, "reason", "")};
    }
    case HS_DO_ABORT:
        return AbortWork{text};
    case HS_DO_LOAD: {
        const Json job = json();
        return LoadWork{get_string(job, "run"), get_string(job, "bundle"),
                        get_string(job, "initiator"), get_string(job, "role") == "initiator",
                        get_object(job, "options", Json::object())};
    }
    case HS_DO_START:
        return StartWork{};
    default:
        return std::nullopt;
    }
}

namespace {

using Answer = std::optional<std::pair<hs_local_kind, Json>>;

struct ToAnswer {
    Answer operator()(const Prepared &e) const {
        Json nics = Json::array();
        for (const Nic &nic : e.nics) {
            nics.push_back({{"nic", nic.name}, {"mac", nic.mac.to_string()}});
        }
        return {{HS_LOCAL_PREPARED, {{"nics", nics}, {"info", e.info}}}};
    }
    Answer operator()(const Installed &) const { return plain(HS_LOCAL_INSTALLED); }
    Answer operator()(const Armed &) const { return plain(HS_LOCAL_ARMED); }
    Answer operator()(const Cut &e) const {
        return {{HS_LOCAL_CUT,
                 {{"white_sent", network::counts_to_json(e.white_sent)},
                  {"pause", e.pause},
                  {"cause", e.cause}}}};
    }
    Answer operator()(const ChannelsFin &e) const {
        return {{HS_LOCAL_CHANNELS_FIN, {{"recorded", e.recorded}, {"lost", e.lost}}}};
    }
    Answer operator()(const FullFin &e) const { return {{HS_LOCAL_FULL_FIN, e.report}}; }
    Answer operator()(const Progress &e) const {
        return {{HS_LOCAL_PROGRESS, {{"done", e.done}, {"total", e.total}}}};
    }
    Answer operator()(const Beat &) const { return std::nullopt; }
    Answer operator()(const Published &) const { return plain(HS_LOCAL_PUBLISHED); }
    Answer operator()(const Aborted &e) const {
        return {{HS_LOCAL_ABORTED, e.error.empty() ? Json::object() : Json{{"error", e.error}}}};
    }
    Answer operator()(const Loaded &e) const { return {{HS_LOCAL_LOADED, e.report}}; }
    Answer operator()(const Started &e) const { return {{HS_LOCAL_STARTED, e.report}}; }
    Answer operator()(const Failed &e) const { return {{HS_LOCAL_FAILED, {{"error", e.error}}}}; }

    static Answer plain(hs_local_kind kind) { return {{kind, Json::object()}}; }
};

} // namespace

std::optional<std::pair<hs_local_kind, Json>> answer_of(const LocalEvent &event) {
    return std::visit(ToAnswer{}, event);
}

} // namespace hotsnap::sim
