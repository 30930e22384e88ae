// SPDX-License-Identifier: GPL-2.0-or-later
#include "member/states.h"

#include <array>
#include <initializer_list>

namespace hotsnap::member {

namespace {

// A set of inputs.
class Inputs {
  public:
    constexpr Inputs(std::initializer_list<Input> inputs) {
        for (const Input input : inputs) {
            bits_ |= bit(input);
        }
    }
    constexpr bool has(Input input) const { return bits_ & bit(input); }

  private:
    static constexpr uint32_t bit(Input input) { return uint32_t{1} << static_cast<int>(input); }

    uint32_t bits_ = 0;
};

struct Row {
    const char *name;
    Inputs legal;
    Inputs late = {};
};

using enum Input;

// Why inputs are late:
//   pace            the copy has ended
//   cut             a red frame's cut is under way, or done
//   close_channels  the last frame came just before the time to wait was over
//   hold_ended      the switch, or an abort, was faster
//   failure         follows a failure or an abort, whose reason is known; or comes when the bundle
//                   may exist already, and then no failure here makes the run fail
//   all work        the coordinator did not know yet that the run had failed
constexpr std::array<Row, state_count> rows = {{
    {"idle", {prepare, load, abort}},
    {"beginning", {abort, failure, beat}},
    {"preparing", {abort, failure, beat}},
    {"prepared", {precopy, install, flush, abort, failure, beat}},
    {"precopying", {abort, failure, beat}},
    {"installed", {listen, arm, pace, abort, failure, beat}},
    {"arming", {pace, abort, failure, beat}},
    {"armed", {pace, cut, red_frame, abort, failure, beat}},
    {"cutting", {pace, memory_complete, abort, failure, beat}, {cut}},
    {"flushing", {abort, failure, beat}},
    {"flushed", {hold, abort, failure, beat}},
    {"holding", {abort, failure, beat}},
    {"held", {switch_over, hold_ended, abort, failure, beat}},
    {"switching", {memory_complete, abort, failure, beat}, {hold_ended}},
    {"saving",
     {pace, expect, close_channels, end_coloring, memory_complete, abort, failure, frame_received,
      beat},
     {cut}},
    {"recording", {end_coloring, abort, failure, beat}, {pace, cut, close_channels}},
    {"reporting", {end_coloring, abort, failure, beat}, {pace, cut, close_channels}},
    {"complete",
     {end_coloring, publish, commit, abort, failure, beat},
     {pace, cut, close_channels}},
    {"publishing", {abort}, {pace, failure}},
    {"published", {commit, abort}, {pace, failure}},
    {"failed",
     {commit, abort},
     {precopy, install, listen, arm, pace, cut, expect, close_channels, end_coloring, publish,
      flush, hold, switch_over, memory_complete, failure, hold_ended}},
    {"ending", {}, {memory_complete, failure, hold_ended}},
    {"undoing", {}, {memory_complete, failure, hold_ended}},
    {"loading", {abort, failure}},
    {"loaded", {start, abort, failure}},
    {"starting", {abort}, {failure}},
    {"running", {commit, abort}, {failure}},
    {"load-failed", {abort}, {start, failure}},
}};

// These inputs are observations and ask for nothing: harmless in every state.
constexpr Inputs sights = {red_frame, frame_received, beat};

static_assert(state_count == static_cast<size_t>(State::load_failed) + 1);

constexpr const char *input_names[] = {
    "prepare",
    "precopy",
    "install",
    "listen",
    "arm",
    "pace",
    "cut",
    "expect",
    "close-channels",
    "end-coloring",
    "publish",
    "commit",
    "abort",
    "load",
    "start",
    "flush",
    "hold",
    "switch",
    "memory-complete",
    "failure",
    "hold-ended",
    "red-frame",
    "frame-received",
    "beat",
};

} // namespace

const char *to_string(State state) {
    return rows[static_cast<size_t>(state)].name;
}

const char *to_string(Input input) {
    return input_names[static_cast<size_t>(input)];
}

Verdict judge(State state, Input input) {
    const Row &row = rows[static_cast<size_t>(state)];
    if (row.legal.has(input)) {
        return Verdict::legal;
    }
    return row.late.has(input) || sights.has(input) ? Verdict::late : Verdict::illegal;
}

} // namespace hotsnap::member
