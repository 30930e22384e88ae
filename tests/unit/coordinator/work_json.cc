// SPDX-License-Identifier: GPL-2.0-or-later
#include "work_json.h"

#include "network/channel_json.h"

namespace hotsnap::member {

namespace {

template <typename... F> struct Overloaded : F... { using F::operator()...; };

Prepared prepared_of(const Json &json) {
    Prepared prepared;
    for (const Json &nic : get_array(json, "nics")) {
        const auto mac = nic.is_object() ? nic.find("mac") : nic.end();
        if (mac == nic.end()) {
            throw BadInput("a NIC without 'mac'");
        }
        std::vector<network::Mac> sources;
        if (const auto others = nic.find("sources"); others != nic.end()) {
            for (const Json &other : *others) {
                sources.push_back(network::mac_from_json(other));
            }
        }
        prepared.nics.push_back({get_string(nic, "nic", ""), network::mac_from_json(*mac),
                                 std::move(sources), get_bool(nic, "complete", true), 1,
                                 network::addresses_from_json(nic)});
    }
    prepared.info = get_object(json, "info", Json::object());
    return prepared;
}

std::optional<LocalEvent> read_event(std::string_view name, const Json &json) {
    if (name == "PREPARED") {
        return prepared_of(json);
    }
    if (name == "PRECOPIED") {
        return Precopied{get_bool(json, "converged", true), get_uint(json, "left", 0)};
    }
    if (name == "INSTALLED") {
        return Installed{};
    }
    if (name == "HEARD") {
        return Heard{network::counts_from_json(get_object(json, "heard", Json::object()))};
    }
    if (name == "ARMED") {
        return Armed{};
    }
    if (name == "CUT") {
        return Cut{network::counts_from_json(get_object(json, "white_sent", Json::object())),
                   network::counts_from_json(get_object(json, "heard", Json::object())),
                   get_object(json, "pause", Json::object()),
                   get_string(json, "cause", "snapshot")};
    }
    if (name == "CHANNELS_FIN") {
        return ChannelsFin{
            get_uint(json, "recorded", 0), get_uint(json, "lost", 0), get_uint(json, "unmarked", 0),
            network::counts_from_json(get_object(json, "unexpected", Json::object()))};
    }
    if (name == "FULL_FIN") {
        return FullFin{json};
    }
    if (name == "PROGRESS") {
        return Progress{get_uint(json, "done", 0), get_uint(json, "total", 0),
                        get_uint(json, "expected_us", 0)};
    }
    if (name == "BEAT") {
        return Beat{};
    }
    if (name == "PUBLISHED") {
        return Published{};
    }
    if (name == "ABORTED") {
        return Aborted{get_string(json, "error", "")};
    }
    if (name == "LOADED") {
        return Loaded{json};
    }
    if (name == "STARTED") {
        return Started{json};
    }
    if (name == "FLUSHED") {
        return Flushed{};
    }
    if (name == "HELD") {
        return Held{};
    }
    if (name == "SWITCHED") {
        return Switched{get_object(json, "hold", Json::object())};
    }
    if (name == "FAILED") {
        return Failed{get_string(json, "error", "")};
    }
    return std::nullopt;
}

} // namespace

const char *name_of(const LocalWork &work) {
    return std::visit(Overloaded{
                          [](const PrepareWork &) { return "PREPARE"; },
                          [](const PrecopyWork &) { return "PRECOPY"; },
                          [](const InstallWork &) { return "INSTALL"; },
                          [](const ListenWork &) { return "LISTEN"; },
                          [](const ArmWork &) { return "ARM"; },
                          [](const PaceWork &) { return "PACE"; },
                          [](const CutWork &) { return "CUT"; },
                          [](const ExpectWork &) { return "EXPECT"; },
                          [](const CloseChannelsWork &) { return "CLOSE_CHANNELS"; },
                          [](const EndColoringWork &) { return "END_COLORING"; },
                          [](const PublishWork &) { return "PUBLISH"; },
                          [](const CommitWork &) { return "COMMIT"; },
                          [](const AbortWork &) { return "ABORT"; },
                          [](const LoadWork &) { return "LOAD"; },
                          [](const StartWork &) { return "START"; },
                          [](const FlushWork &) { return "FLUSH"; },
                          [](const HoldWork &) { return "HOLD"; },
                          [](const SwitchWork &) { return "SWITCH"; },
                      },
                      work);
}

std::string WorkText::text_of(const LocalWork &work) {
    const auto role = [](bool leads) { return leads ? "initiator" : "peer"; };
    return std::visit(
        Overloaded{
            [&](const PrepareWork &w) {
                tag_ = w.tag;
                coloring_ = w.coloring;
                epoch_ = 0;
                return to_text({{"run", w.run},
                                {"tag", w.tag},
                                {"directory", w.directory},
                                {"initiator", w.initiator},
                                {"self", self_},
                                {"role", role(w.leads)},
                                {"coloring", w.coloring},
                                {"options", w.options}});
            },
            [&](const InstallWork &w) {
                epoch_ = w.epoch;
                return to_text({{"epoch", w.epoch},
                                {"tag", tag_},
                                {"self", self_},
                                {"coloring", coloring_},
                                {"members", network::members_to_json(w.members)}});
            },
            [&](const PaceWork &w) {
                return to_text({{"finish_us", w.finish_us}});
            },
            [&](const HoldWork &w) {
                return to_text({{"longest_us", w.longest_us}});
            },
            [&](const ExpectWork &w) { return to_text(network::counts_to_json(w.counts)); },
            [&](const PublishWork &w) { return to_text(w.manifest); },
            [&](const CommitWork &w) {
                return to_text({{"epoch", epoch_},
                                {"tag", tag_},
                                {"in_doubt", w.in_doubt},
                                {"reason", w.reason}});
            },
            [&](const AbortWork &w) { return w.reason; },
            [&](const LoadWork &w) {
                tag_.clear();
                epoch_ = 0;
                return to_text({{"run", w.run},
                                {"bundle", w.bundle},
                                {"initiator", w.initiator},
                                {"self", self_},
                                {"role", role(w.leads)},
                                {"options", w.options}});
            },
            [&](const auto &) {
                return to_text({{"epoch", epoch_}, {"tag", tag_}});
            },
        },
        work);
}

std::optional<LocalEvent> event_of(std::string_view name, const char *json) {
    try {
        return read_event(name, parse_object(json));
    } catch (const BadInput &e) {
        return Failed{std::string("bad answer of the local side: ") + e.what()};
    }
}

} // namespace hotsnap::member
