// SPDX-License-Identifier: GPL-2.0-or-later
// The work that a run gives to its machine, and the machine's events: typed, and never on the wire.
// The peer half of a run (in the member's iothread) makes LocalWork and takes LocalEvents;
// member/local_run.h (in QEMU's main loop) takes LocalWork and makes LocalEvents.
#ifndef HOTSNAP_MEMBER_WORK_H
#define HOTSNAP_MEMBER_WORK_H

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/json.h"
#include "network/channel_counts.h"
#include "network/member_table.h"

namespace hotsnap::member {

// Work. Each is answered by the event beside it, or by Failed, unless marked "no answer".

struct PrepareWork { // -> Prepared
    std::string run;
    std::string tag;
    std::string directory; // of the bundles; this member's folder is DIRECTORY/TAG.partial/NAME
    std::string initiator;
    bool leads = false; // this member is the initiator
    bool coloring = true;
    Json options = Json::object(); // as the user gave them; the machine knows their meaning
};

// Copy memory before the cut, and again what is written meanwhile. -> Precopied, when that has
// converged, or is found not to. Only if the run's mode is precopy; it may take any time.
struct PrecopyWork {};

struct InstallWork { // -> Installed
    uint64_t epoch = 0;
    std::vector<network::Member> members;
};

struct ListenWork {}; // -> Heard

struct ArmWork {}; // -> Armed

// When the copy of memory is to end; CLOCK_MONOTONIC, microseconds; 0: as soon as it can. Replaces
// what was said before. No answer.
struct PaceWork {
    uint64_t finish_us = 0;
};

// -> Cut. No answer when a red frame's cut is under way or done: one Cut per epoch.
struct CutWork {};

// -> ChannelsFin, as soon as all frames that the others sent before their cuts have arrived.
struct ExpectWork {
    network::PairCounts counts; // of the channels that lead here
    network::PairCounts marks;  // (NIC of another member, NIC of ours): its mark is due
};

struct CloseChannelsWork {}; // -> ChannelsFin: the time to wait is over

struct EndColoringWork {}; // no answer

// Initiator only: write the manifest, rename TAG.partial to TAG. -> Published; after Failed no TAG
// exists.
struct PublishWork {
    Json manifest;
};

// The run is over, and kept; no answer. In doubt: the initiator was lost after this member's part
// was complete, so a published bundle may refer to this member's files. They are kept all the same.
struct CommitWork {
    bool in_doubt = false;
    std::string reason;
};

// Undo all of this run. -> Aborted, exactly once, and no other event of this run after it. This
// work comes after every Failed, and may come while an answer is outstanding; that answer may then
// be left out.
struct AbortWork {
    std::string reason;
};

// Of a barrier. A member that holds its disk requests gives them free by itself after that time;
// then Failed comes, and a SwitchWork is not done any more.

struct FlushWork {}; // -> Flushed

struct HoldWork { // -> Held
    uint64_t longest_us = 0;
};

struct SwitchWork {}; // -> Switched; the requests go on

struct LoadWork { // restore -> Loaded
    std::string run;
    std::string bundle;
    std::string initiator;
    bool leads = false;
    Json options = Json::object();
};

struct StartWork {}; // restore: start the VM, play the channel back -> Started

using LocalWork =
    std::variant<PrepareWork, PrecopyWork, InstallWork, ListenWork, ArmWork, PaceWork, CutWork,
                 ExpectWork, CloseChannelsWork, EndColoringWork, PublishWork, CommitWork, AbortWork,
                 LoadWork, StartWork, FlushWork, HoldWork, SwitchWork>;

// Events. One that is not legal in the state of the run (late, doubled, of an aborted run) is
// ignored and counted.

struct Prepared {
    std::vector<network::MemberNic> nics;
    Json info = Json::object(); // "boot_id" (of the host): tells whose pauses can be compared
};

struct Precopied {
    bool converged = false;
    uint64_t left = 0; // bytes that the last round left to copy
};

struct Installed {};

struct Heard {
    network::PairCounts heard; // network/hearing.h
};

struct Armed {};

struct Cut { // also unasked, when a red frame forced the cut before SNAPSHOT came
    network::PairCounts white_sent;
    network::PairCounts heard;   // network/hearing.h
    Json pause = Json::object(); // {"begin_ns","end_ns","steps":[..]}, CLOCK_MONOTONIC
    std::string cause;           // "snapshot" or "red-frame"
};

struct ChannelsFin {
    uint64_t recorded = 0;
    uint64_t lost = 0;
    uint64_t unmarked = 0; // marks that were due and did not come
    network::PairCounts unexpected;
};

// All files of this member (image, disks, channel) are complete and durable. Any time after Cut.
struct FullFin {
    Json report = Json::object(); // goes into the manifest
};

struct Progress {
    uint64_t done = 0;
    uint64_t total = 0;
    uint64_t expected_us = 0; // the end of the copy, CLOCK_MONOTONIC; 0: it cannot tell
};

// The machine's main loop is alive. Once the first of a run has come, 30 s without another fail the
// run: the VM stands still, perhaps for storage that has failed.
struct Beat {};

struct Published {};

struct Aborted {
    std::string error; // names the parts that could not be undone; empty if none
};

struct Loaded {
    Json report = Json::object();
};

struct Started {
    Json report = Json::object(); // {"played":N,"start_ns":N}
};

struct Flushed {};

struct Held {}; // no request of the guest is in flight, and none is begun from now on

struct Switched { // the requests were held without a gap from before Held until after the switch
    Json hold = Json::object(); // as Cut::pause
};

struct Failed { // any local step went wrong; ends the run
    std::string error;
};

using LocalEvent =
    std::variant<Prepared, Precopied, Installed, Heard, Armed, Cut, ChannelsFin, FullFin, Progress,
                 Beat, Published, Aborted, Loaded, Started, Failed, Flushed, Held, Switched>;

} // namespace hotsnap::member
#endif
