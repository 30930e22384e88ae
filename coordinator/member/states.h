// SPDX-License-Identifier: GPL-2.0-or-later
// The states of a run in one member, and the inputs that are legal in each.
//
//   idle > beginning > preparing > prepared (> precopying > prepared) > installed > arming > armed
//   > cutting > saving
//        > recording > reporting > complete (> publishing > published) > idle
//
//   prepared > flushing > flushed > holding > held > switching > saving: of a barrier
//
//   idle > loading > loaded > starting > running > idle
//
// A snapshot leaves the upper row through `failed` (something went wrong; the coordinator's abort
// is on its way), `ending` (aborted, while the machine still owes an answer) and `undoing`; a
// restore leaves the lower row through `load_failed`.
#ifndef HOTSNAP_MEMBER_STATES_H
#define HOTSNAP_MEMBER_STATES_H

#include <cstddef>
#include <cstdint>

namespace hotsnap::member {

enum class State : uint8_t {
    idle,
    beginning, // the machine checks whether a snapshot may be taken
    preparing, // task prepare
    prepared,
    precopying, // memory is copied before the cut; task precopy
    installed,  // the mediator knows the members' MACs
    arming,     // coloring has begun; task arm
    armed,      // the cut may be taken
    cutting,
    flushing, // task arm
    flushed,
    holding, // disk requests are being held
    held,
    switching, // the disks go on in their overlays, and the requests with them
    saving,    // the VM runs again; task settle, memory and channels go on side by side
    recording, // task channel
    reporting,
    complete,   // all files of this member are durable
    publishing, // task publish
    published,
    failed,
    ending,
    undoing, // task undo, then the main loop's part of it
    loading,
    loaded,
    starting,
    running, // restored; the other members may not be yet
    load_failed,
};
inline constexpr size_t state_count = 28;

const char *to_string(State state);

// The inputs that can come at any time: work, in the order of LocalWork's alternatives, and news of
// the machine. Answers are not among them: an answer is legal when it is owed.
enum class Input : uint8_t {
    prepare,
    precopy,
    install,
    listen,
    arm,
    pace,
    cut,
    expect,
    close_channels,
    end_coloring,
    publish,
    commit,
    abort,
    load,
    start,
    flush,
    hold,
    switch_over,
    memory_complete,
    failure,
    hold_ended,
    red_frame,
    frame_received,
    beat,
};

const char *to_string(Input input);

enum class Verdict : uint8_t {
    legal,
    late,    // crossed another input on its way, which must be expected: ignored
    illegal, // ignored, and counted
};

Verdict judge(State state, Input input);

} // namespace hotsnap::member
#endif
