// SPDX-License-Identifier: GPL-2.0-or-later
// The messages between members (docs/formats/protocol.md), as types and as JSON.
//
// All but HELLO and ERROR carry `run`, the name of the snapshot or restore they belong to: an epoch
// number is known from INSTALL on only, and the numbers of two initiators may meet.
#ifndef HOTSNAP_WIRE_MESSAGES_H
#define HOTSNAP_WIRE_MESSAGES_H

#include <cstdint>
#include <string>
#include <string_view>
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
using network::mac_from_json;
using network::Member;
using network::members_from_json;
using network::MemberTable;
using network::name_form;
using network::PairCounts;

inline constexpr uint64_t protocol_version = 1;

struct Hello {
    static constexpr const char *type = "HELLO";
    uint64_t protocol = protocol_version;
    std::string name;
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
};

struct Prepared {
    static constexpr const char *type = "PREPARED";
    std::string run;
    uint64_t last_epoch = 0;
    std::vector<Mac> macs;
    Json nics = Json::array();
    Json info = Json::object();
};

struct Refused {
    static constexpr const char *type = "REFUSED";
    std::string run;
    std::string reason;
};

struct Install {
    static constexpr const char *type = "INSTALL";
    std::string run;
    uint64_t epoch = 0;
    std::vector<Member> members;
};

struct TransientSnapFin {
    static constexpr const char *type = "TRANSIENT_SNAP_FIN";
    std::string run;
    PairCounts white_sent;
    Json pause = Json::object();
    std::string cause;
};

struct AllTransientSnapFin {
    static constexpr const char *type = "ALL_TRANSIENT_SNAP_FIN";
    std::string run;
    PairCounts expected; // of the channels that lead to the receiver
};

struct ChannelsFin {
    static constexpr const char *type = "CHANNELS_FIN";
    std::string run;
    uint64_t recorded = 0;
    uint64_t lost = 0;
};

struct FullSnapFin {
    static constexpr const char *type = "FULL_SNAP_FIN";
    std::string run;
    Json report = Json::object();
};

struct Abort {
    static constexpr const char *type = "ABORT";
    std::string run;
    std::string reason;
};

struct Aborted {
    static constexpr const char *type = "ABORTED";
    std::string run;
    std::string error; // what could not be undone; empty if nothing
};

struct Progress { // also a sign of life, of a peer
    static constexpr const char *type = "PROGRESS";
    std::string run;
    uint64_t done = 0;
    uint64_t total = 0;
};

struct Restore {
    static constexpr const char *type = "RESTORE";
    std::string run;
    std::string bundle;
    uint64_t heartbeat_us = 0;
    uint64_t silence_us = 0;
    Json options = Json::object();
};

struct Loaded {
    static constexpr const char *type = "LOADED";
    std::string run;
    Json report = Json::object();
};

struct Started {
    static constexpr const char *type = "STARTED";
    std::string run;
    Json report = Json::object();
};

struct ErrorMessage {
    static constexpr const char *type = "ERROR";
    std::string reason;
};

// Messages that say nothing but their type.
#define HOTSNAP_BARE_MESSAGE(name, text)                                                           \
    struct name {                                                                                  \
        static constexpr const char *type = text;                                                  \
        std::string run;                                                                           \
    }
HOTSNAP_BARE_MESSAGE(Installed, "INSTALLED");
HOTSNAP_BARE_MESSAGE(Arm, "ARM");
HOTSNAP_BARE_MESSAGE(Armed, "ARMED");
HOTSNAP_BARE_MESSAGE(Snapshot, "SNAPSHOT");
HOTSNAP_BARE_MESSAGE(ColoringEnd, "COLORING_END");
HOTSNAP_BARE_MESSAGE(AllFullSnapFin, "ALL_FULL_SNAP_FIN");
HOTSNAP_BARE_MESSAGE(Start, "START");
HOTSNAP_BARE_MESSAGE(Restored, "RESTORED");
HOTSNAP_BARE_MESSAGE(Heartbeat, "HEARTBEAT"); // a sign of life, of the initiator
#undef HOTSNAP_BARE_MESSAGE

using Message = std::variant<Hello, ErrorMessage, Prepare, Prepared, Refused, Install, Installed,
                             Arm, Armed, Snapshot, TransientSnapFin, AllTransientSnapFin,
                             ChannelsFin, ColoringEnd, FullSnapFin, AllFullSnapFin, Abort, Aborted,
                             Progress, Heartbeat, Restore, Loaded, Start, Started, Restored>;

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
