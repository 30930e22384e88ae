// SPDX-License-Identifier: GPL-2.0-or-later
// The messages between members (docs/formats/protocol.md), as types and as JSON.
//
// All but HELLO and ERROR carry `run`, the name of the snapshot or restore they belong to: an epoch
// number is known only from INSTALL on, and two initiators may choose the same number.
//
// A message lists its fields once, in fields(): the code that writes it and the code that reads it
// are made from the list (messages.cc). A new message needs only its struct here and its place in
// Message.
#ifndef HOTSNAP_WIRE_MESSAGES_H
#define HOTSNAP_WIRE_MESSAGES_H

#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>
#include <variant>
#include <vector>

#include "base/json.h"
#include "network/channel_counts.h"
#include "network/channel_json.h"
#include "network/member_table.h"

namespace hotsnap::cluster {

using network::counts_from_json;
using network::is_valid_name;
using network::Mac;
using network::Member;
using network::MemberNic;
using network::members_from_json;
using network::MemberTable;
using network::name_form;
using network::PairCounts;

inline constexpr uint64_t protocol_version = 2;

enum class Presence : uint8_t {
    required,
    optional, // when missing, the struct keeps its initial value
    rare,     // optional, and left out when it has its initial value
};

template <typename M, typename Value> struct Field {
    const char *key;
    Value M::*value;
    Presence presence;
};

template <typename M, typename Value> constexpr Field<M, Value> field(const char *k, Value M::*v) {
    return {k, v, Presence::required};
}
template <typename M, typename Value>
constexpr Field<M, Value> optional_field(const char *key, Value M::*value) {
    return {key, value, Presence::optional};
}
template <typename M, typename Value>
constexpr Field<M, Value> rare_field(const char *key, Value M::*value) {
    return {key, value, Presence::rare};
}

struct Hello {
    static constexpr const char *type = "HELLO";
    uint64_t protocol = protocol_version;
    std::string name;
    static constexpr auto fields() {
        return std::tuple(field("protocol", &Hello::protocol), field("name", &Hello::name));
    }
};

struct Prepare {
    static constexpr const char *type = "PREPARE";
    std::string run;
    std::string tag;
    std::string directory;
    bool coloring = true;
    uint64_t drain_us = 0;
    uint64_t heartbeat_us = 0;
    uint64_t silence_us = 0;
    Json options = Json::object();
    static constexpr auto fields() {
        return std::tuple(
            field("run", &Prepare::run), field("tag", &Prepare::tag),
            field("directory", &Prepare::directory), optional_field("coloring", &Prepare::coloring),
            field("drain_us", &Prepare::drain_us), field("heartbeat_us", &Prepare::heartbeat_us),
            field("silence_us", &Prepare::silence_us), field("options", &Prepare::options));
    }
};

struct Prepared {
    static constexpr const char *type = "PREPARED";
    std::string run;
    uint64_t last_epoch = 0;
    std::vector<MemberNic> nics;
    Json info = Json::object();
    static constexpr auto fields() {
        return std::tuple(field("run", &Prepared::run), field("last_epoch", &Prepared::last_epoch),
                          field("nics", &Prepared::nics), field("info", &Prepared::info));
    }
};

struct Precopied {
    static constexpr const char *type = "PRECOPIED";
    std::string run;
    bool converged = false;
    uint64_t left = 0; // bytes that the last round left to copy
    static constexpr auto fields() {
        return std::tuple(field("run", &Precopied::run), field("converged", &Precopied::converged),
                          field("left", &Precopied::left));
    }
};

struct Refused {
    static constexpr const char *type = "REFUSED";
    std::string run;
    std::string reason;
    static constexpr auto fields() {
        return std::tuple(field("run", &Refused::run), field("reason", &Refused::reason));
    }
};

struct Install {
    static constexpr const char *type = "INSTALL";
    std::string run;
    uint64_t epoch = 0;
    std::vector<Member> members;
    static constexpr auto fields() {
        return std::tuple(field("run", &Install::run), field("epoch", &Install::epoch),
                          field("members", &Install::members));
    }
};

struct Heard {
    static constexpr const char *type = "HEARD";
    std::string run;
    PairCounts heard;         // (NIC of another member, NIC of ours): network/hearing.h
    uint64_t received_us = 0; // LISTEN, by the member's clock: clock_offset.h
    uint64_t replied_us = 0;
    static constexpr auto fields() {
        return std::tuple(field("run", &Heard::run), field("heard", &Heard::heard),
                          field("received_us", &Heard::received_us),
                          field("replied_us", &Heard::replied_us));
    }
};

// The instant, by the receiver's clock, at which its copy is to end (finish.h); 0: as soon as it
// can. Each of the messages replaces what the one before it said.
struct Arm {
    static constexpr const char *type = "ARM";
    std::string run;
    uint64_t finish_us = 0;
    static constexpr auto fields() {
        return std::tuple(field("run", &Arm::run), rare_field("finish_us", &Arm::finish_us));
    }
};

struct Snapshot {
    static constexpr const char *type = "SNAPSHOT";
    std::string run;
    uint64_t finish_us = 0; // as in ARM
    static constexpr auto fields() {
        return std::tuple(field("run", &Snapshot::run),
                          rare_field("finish_us", &Snapshot::finish_us));
    }
};

struct Retarget { // from SNAPSHOT on, at any time
    static constexpr const char *type = "RETARGET";
    std::string run;
    uint64_t finish_us = 0; // as in ARM
    static constexpr auto fields() {
        return std::tuple(field("run", &Retarget::run),
                          rare_field("finish_us", &Retarget::finish_us));
    }
};

struct TransientSnapFin {
    static constexpr const char *type = "TRANSIENT_SNAP_FIN";
    std::string run;
    PairCounts white_sent;
    PairCounts heard; // as in HEARD, until the cut
    Json pause = Json::object();
    std::string cause;
    static constexpr auto fields() {
        return std::tuple(field("run", &TransientSnapFin::run),
                          field("white_sent", &TransientSnapFin::white_sent),
                          field("heard", &TransientSnapFin::heard),
                          field("pause", &TransientSnapFin::pause),
                          field("cause", &TransientSnapFin::cause));
    }
};

struct AllTransientSnapFin {
    static constexpr const char *type = "ALL_TRANSIENT_SNAP_FIN";
    std::string run;
    PairCounts expected; // of the channels that lead to the receiver
    PairCounts marks;    // (NIC of another member, NIC of the receiver): its mark is due
    static constexpr auto fields() {
        return std::tuple(field("run", &AllTransientSnapFin::run),
                          field("expected", &AllTransientSnapFin::expected),
                          field("marks", &AllTransientSnapFin::marks));
    }
};

struct ChannelsFin {
    static constexpr const char *type = "CHANNELS_FIN";
    std::string run;
    uint64_t recorded = 0;
    uint64_t lost = 0;
    uint64_t unmarked = 0; // marks that were due and did not come
    PairCounts unexpected; // white segments of channels that nothing was expected of
    static constexpr auto fields() {
        return std::tuple(
            field("run", &ChannelsFin::run), field("recorded", &ChannelsFin::recorded),
            field("lost", &ChannelsFin::lost), field("unmarked", &ChannelsFin::unmarked),
            field("unexpected", &ChannelsFin::unexpected));
    }
};

struct FullSnapFin {
    static constexpr const char *type = "FULL_SNAP_FIN";
    std::string run;
    Json report = Json::object();
    static constexpr auto fields() {
        return std::tuple(field("run", &FullSnapFin::run), field("report", &FullSnapFin::report));
    }
};

// Of a barrier (barrier_run.h).

struct PrepareBarrier {
    static constexpr const char *type = "PREPARE_BARRIER";
    std::string run;
    std::string tag;
    std::string directory;
    uint64_t hold_us = 0; // the longest time for which a member holds its disk requests
    uint64_t heartbeat_us = 0;
    uint64_t silence_us = 0;
    Json options = Json::object();
    static constexpr auto fields() {
        return std::tuple(field("run", &PrepareBarrier::run), field("tag", &PrepareBarrier::tag),
                          field("directory", &PrepareBarrier::directory),
                          field("hold_us", &PrepareBarrier::hold_us),
                          field("heartbeat_us", &PrepareBarrier::heartbeat_us),
                          field("silence_us", &PrepareBarrier::silence_us),
                          field("options", &PrepareBarrier::options));
    }
};

struct Flush {
    static constexpr const char *type = "FLUSH";
    std::string run;
    uint64_t epoch = 0;
    static constexpr auto fields() {
        return std::tuple(field("run", &Flush::run), field("epoch", &Flush::epoch));
    }
};

struct Switched {
    static constexpr const char *type = "SWITCHED";
    std::string run;
    Json hold = Json::object();
    static constexpr auto fields() {
        return std::tuple(field("run", &Switched::run), field("hold", &Switched::hold));
    }
};

struct Abort {
    static constexpr const char *type = "ABORT";
    std::string run;
    std::string reason;
    static constexpr auto fields() {
        return std::tuple(field("run", &Abort::run), field("reason", &Abort::reason));
    }
};

struct Aborted {
    static constexpr const char *type = "ABORTED";
    std::string run;
    std::string error; // names the parts that could not be undone; empty if none
    static constexpr auto fields() {
        return std::tuple(field("run", &Aborted::run), field("error", &Aborted::error));
    }
};

struct Progress { // also a peer's sign of life
    static constexpr const char *type = "PROGRESS";
    std::string run;
    uint64_t done = 0;
    uint64_t total = 0;
    uint64_t expected_us = 0; // the end of the copy, by the member's clock; 0: it cannot tell
    static constexpr auto fields() {
        return std::tuple(field("run", &Progress::run), field("done", &Progress::done),
                          field("total", &Progress::total),
                          rare_field("expected_us", &Progress::expected_us));
    }
};

struct Restore {
    static constexpr const char *type = "RESTORE";
    std::string run;
    std::string bundle;
    uint64_t heartbeat_us = 0;
    uint64_t silence_us = 0;
    Json options = Json::object();
    static constexpr auto fields() {
        return std::tuple(field("run", &Restore::run), field("bundle", &Restore::bundle),
                          field("heartbeat_us", &Restore::heartbeat_us),
                          field("silence_us", &Restore::silence_us),
                          field("options", &Restore::options));
    }
};

struct Loaded {
    static constexpr const char *type = "LOADED";
    std::string run;
    Json report = Json::object();
    static constexpr auto fields() {
        return std::tuple(field("run", &Loaded::run), field("report", &Loaded::report));
    }
};

struct Started {
    static constexpr const char *type = "STARTED";
    std::string run;
    Json report = Json::object();
    static constexpr auto fields() {
        return std::tuple(field("run", &Started::run), field("report", &Started::report));
    }
};

struct ErrorMessage {
    static constexpr const char *type = "ERROR";
    std::string reason;
    static constexpr auto fields() { return std::tuple(field("reason", &ErrorMessage::reason)); }
};

// Messages that say nothing but their type.
#define HOTSNAP_BARE_MESSAGE(name, text)                                                           \
    struct name {                                                                                  \
        static constexpr const char *type = text;                                                  \
        std::string run;                                                                           \
        static constexpr auto fields() { return std::tuple(field("run", &name::run)); }            \
    }
HOTSNAP_BARE_MESSAGE(Precopy, "PRECOPY");
HOTSNAP_BARE_MESSAGE(Installed, "INSTALLED");
HOTSNAP_BARE_MESSAGE(Listen, "LISTEN");
HOTSNAP_BARE_MESSAGE(Armed, "ARMED");
HOTSNAP_BARE_MESSAGE(ColoringEnd, "COLORING_END");
HOTSNAP_BARE_MESSAGE(Flushed, "FLUSHED");
HOTSNAP_BARE_MESSAGE(Hold, "HOLD");
HOTSNAP_BARE_MESSAGE(Held, "HELD");
HOTSNAP_BARE_MESSAGE(Switch, "SWITCH");
HOTSNAP_BARE_MESSAGE(AllSwitched, "ALL_SWITCHED");
HOTSNAP_BARE_MESSAGE(AllFullSnapFin, "ALL_FULL_SNAP_FIN");
HOTSNAP_BARE_MESSAGE(Start, "START");
HOTSNAP_BARE_MESSAGE(Restored, "RESTORED");
HOTSNAP_BARE_MESSAGE(Heartbeat, "HEARTBEAT"); // the initiator's sign of life
#undef HOTSNAP_BARE_MESSAGE

using Message = std::variant<Hello, ErrorMessage, Prepare, Prepared, Precopy, Precopied, Refused,
                             Install, Installed, Listen, Heard, Arm, Armed, Snapshot,
                             TransientSnapFin, AllTransientSnapFin, ChannelsFin, ColoringEnd,
                             Retarget, FullSnapFin, AllFullSnapFin, Abort, Aborted, Progress,
                             Heartbeat, Restore, Loaded, Start, Started, Restored, PrepareBarrier,
                             Flush, Flushed, Hold, Held, Switch, Switched, AllSwitched>;

// A well-formed message of a type that this version does not know: answered, and ignored.
struct UnknownMessage : BadInput {
    using BadInput::BadInput;
};

const char *type_of(const Message &message);
// The run it belongs to; empty for HELLO and ERROR.
const std::string &run_of(const Message &message);
std::string encode(const Message &message);
Message decode(std::string_view text); // throws UnknownMessage, or BadInput

} // namespace hotsnap::cluster
#endif
