// SPDX-License-Identifier: GPL-2.0-or-later
// The steps of a run, for the machine to carry out; hotsnap/member.h has the answer to each.
#ifndef HOTSNAP_MEMBER_STEPS_H
#define HOTSNAP_MEMBER_STEPS_H

#include <string>
#include <variant>

#include "hotsnap/member.h"
#include "member/work.h"

namespace hotsnap::member {

struct BeginSnapshot { // -> begun
    PrepareWork job;
};

struct RunTask { // -> task_done
    hs_task task;
};

struct TakeCut { // -> cut_done
    std::string cause;
};

struct HoldRequests { // -> held
    uint64_t longest_us = 0;
};

struct SwitchDisks {}; // -> switched

struct ReleaseRequests {};

struct Pace {
    uint64_t finish_us;
};

struct ReleaseFrames {};

struct MakeReport {}; // -> report

struct UndoRest {}; // -> undone

struct Tell { // the coordinator
    LocalEvent event;
};

struct ForgetRun {
    bool kept = false;
    bool in_doubt = false;
    std::string reason;
};

struct BeginLoad { // -> loaded
    LoadWork job;
};

struct StartVm {}; // -> started

struct StopVm {};

struct EndLoad {};

using Step = std::variant<BeginSnapshot, RunTask, TakeCut, Pace, ReleaseFrames, MakeReport,
                          UndoRest, Tell, ForgetRun, BeginLoad, StartVm, StopVm, EndLoad,
                          HoldRequests, SwitchDisks, ReleaseRequests>;

} // namespace hotsnap::member
#endif
