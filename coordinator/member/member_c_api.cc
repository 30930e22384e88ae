// SPDX-License-Identifier: GPL-2.0-or-later
// hotsnap/member.h over the C++ classes: conversions only.
#include <memory>
#include <type_traits>

#include "base/c_boundary.h"
#include "hotsnap/member.h"
#include "member/handles.h"
#include "member/local_run.h"
#include "network/mediator_handle.h"

using namespace hotsnap;
using namespace hotsnap::member;

struct hs_member {
    hs_member(const char *name, hs_mediator *mediator, const char *boot_id)
        : impl(name, mediator->impl, boot_id ? boot_id : "") {}

    LocalRun impl;
    std::optional<Step> current; // keeps the strings of the last step alive
    std::string options;         // of it
};

namespace {

// An error inside must end the run, not the virtual machine: no exception is expected here, but
// none may cross the interface either.
template <typename Body> void event(hs_member *m, Body body) noexcept {
    guarded([&] {
        try {
            body(m->impl);
        } catch (const std::exception &e) {
            m->impl.failed(std::string("internal error: ") + e.what());
        }
    });
}

LocalRun::Fault fault_of(const char *error) {
    return error ? LocalRun::Fault(error) : std::nullopt;
}

// The machine's JSON must be readable; an answer with bad JSON counts as a failure.
template <typename Answer>
void answer_with_json(const char *error, const char *text, Answer answer) {
    Json json = Json::object();
    LocalRun::Fault fault = fault_of(error);
    try {
        json = parse_object(text);
    } catch (const BadInput &e) {
        fault = std::string("bad answer of the local side: ") + e.what();
    }
    answer(fault, std::move(json));
}

Json pause_json(const hs_pause *pause) {
    if (!pause) {
        return Json::object();
    }
    Json steps = Json::array();
    for (unsigned i = 0; i < pause->count && i < HS_PAUSE_STEPS; i++) {
        steps.push_back({{"name", pause->step[i].name}, {"us", pause->step[i].us}});
    }
    return {{"begin_ns", static_cast<uint64_t>(pause->begin_ns)},
            {"end_ns", static_cast<uint64_t>(pause->end_ns)},
            {"steps", steps}};
}

// Fills in the C struct; the strings are those of `m->current`.
struct Convert {
    hs_member *m;
    hs_step *step;

    void operator()(const BeginSnapshot &begin) const {
        step->kind = HS_STEP_BEGIN_SNAPSHOT;
        m->options = to_text(begin.job.options);
        step->u.begin_snapshot = {
            begin.job.run.c_str(),       begin.job.tag.c_str(), begin.job.directory.c_str(),
            begin.job.initiator.c_str(), begin.job.leads,       begin.job.coloring,
            m->options.c_str(),
        };
    }
    void operator()(const RunTask &run) const {
        step->kind = HS_STEP_TASK;
        step->u.task = run.task;
    }
    void operator()(const TakeCut &cut) const {
        step->kind = HS_STEP_CUT;
        step->u.cut = {cut.cause.c_str()};
    }
    void operator()(const Pace &pace) const {
        step->kind = HS_STEP_PACE;
        step->u.finish_us = pace.finish_us;
    }
    void operator()(const ReleaseFrames &) const { step->kind = HS_STEP_RELEASE; }
    void operator()(const MakeReport &) const { step->kind = HS_STEP_REPORT; }
    void operator()(const UndoRest &) const { step->kind = HS_STEP_UNDO; }
    void operator()(const Tell &) const {
        step->kind = HS_STEP_EVENT;
        step->u.event = new hs_event{std::move(std::get<Tell>(*m->current).event)};
    }
    void operator()(const ForgetRun &forget) const {
        step->kind = HS_STEP_FORGET;
        step->u.forget = {forget.kept, forget.in_doubt, forget.reason.c_str()};
    }
    void operator()(const BeginLoad &begin) const {
        step->kind = HS_STEP_BEGIN_LOAD;
        m->options = to_text(begin.job.options);
        step->u.begin_load = {begin.job.run.c_str(), begin.job.bundle.c_str(),
                              begin.job.initiator.c_str(), begin.job.leads, m->options.c_str()};
    }
    void operator()(const StartVm &) const { step->kind = HS_STEP_START; }
    void operator()(const StopVm &) const { step->kind = HS_STEP_STOP; }
    void operator()(const EndLoad &) const { step->kind = HS_STEP_END_LOAD; }
    void operator()(const HoldRequests &hold) const {
        step->kind = HS_STEP_HOLD;
        step->u.longest_us = hold.longest_us;
    }
    void operator()(const SwitchDisks &) const { step->kind = HS_STEP_SWITCH; }
    void operator()(const ReleaseRequests &) const { step->kind = HS_STEP_RELEASE_REQUESTS; }
};

// In the order of the alternatives.
constexpr const char *work_names[] = {
    "prepare", "precopy", "install",        "listen",       "arm",     "pace",
    "cut",     "expect",  "close-channels", "end-coloring", "publish", "commit",
    "abort",   "load",    "start",          "flush",        "hold",    "switch"};
static_assert(std::size(work_names) == std::variant_size_v<LocalWork>);
constexpr const char *event_names[] = {
    "prepared",     "precopied", "installed", "heard",   "armed",     "cut",
    "channels-fin", "full-fin",  "progress",  "beat",    "published", "aborted",
    "loaded",       "started",   "failed",    "flushed", "held",      "switched"};
static_assert(std::size(event_names) == std::variant_size_v<LocalEvent>);

} // namespace

hs_member *hs_member_new(const char *name, hs_mediator *mediator, const char *boot_id,
                         char **error) {
    return guarded<hs_member *>(error, nullptr, [&] {
        if (!name || !network::is_valid_name(name) || !mediator) {
            throw BadInput("a member needs a packet mediator, and a name of the form " +
                           std::string(network::name_form));
        }
        return new hs_member(name, mediator, boot_id);
    });
}

void hs_member_free(hs_member *m) {
    delete m;
}

void hs_member_work(hs_member *m, hs_work *work) {
    const std::unique_ptr<hs_work> owned(work);
    event(m, [&](LocalRun &run) { run.work(std::move(owned->work)); });
}

const char *hs_work_abort_reason(const hs_work *work) {
    const auto *abort = std::get_if<AbortWork>(&work->work);
    return abort ? abort->reason.c_str() : nullptr;
}

bool hs_work_is_cut(const hs_work *work) {
    return std::holds_alternative<CutWork>(work->work);
}

const char *hs_work_name(const hs_work *work) {
    return work_names[work->work.index()];
}

void hs_work_free(hs_work *work) {
    delete work;
}

const char *hs_event_name(const hs_event *event) {
    return event_names[event->event.index()];
}

void hs_event_free(hs_event *event) {
    delete event;
}

void hs_member_begun(hs_member *m, const char *error) {
    event(m, [&](LocalRun &run) { run.begun(fault_of(error)); });
}

void hs_member_precopied(hs_member *m, bool converged, uint64_t left) {
    event(m, [&](LocalRun &run) { run.precopied({converged, left}); });
}

void hs_member_task_done(hs_member *m, hs_task task, const char *error) {
    event(m, [&](LocalRun &run) { run.task_done(task, fault_of(error)); });
}

void hs_member_cut_done(hs_member *m, const char *error, const hs_pause *pause) {
    event(m, [&](LocalRun &run) { run.cut_done(fault_of(error), pause_json(pause)); });
}

void hs_member_report(hs_member *m, const char *json, const hs_pause *pause) {
    event(m, [&](LocalRun &run) {
        answer_with_json(nullptr, json, [&](const LocalRun::Fault &fault, Json report) {
            if (pause) {
                report["pause"] = pause_json(pause);
            }
            run.report(fault, std::move(report));
        });
    });
}

void hs_member_held(hs_member *m, const char *error) {
    event(m, [&](LocalRun &run) { run.held(fault_of(error)); });
}

void hs_member_switched(hs_member *m, const char *error, const hs_pause *hold) {
    event(m, [&](LocalRun &run) { run.switched(fault_of(error), pause_json(hold)); });
}

void hs_member_undone(hs_member *m, const char *error) {
    event(m, [&](LocalRun &run) { run.undone(fault_of(error)); });
}

void hs_member_loaded(hs_member *m, const char *error, const char *json) {
    event(m, [&](LocalRun &run) {
        answer_with_json(error, json, [&](const LocalRun::Fault &fault, Json report) {
            run.loaded(fault, std::move(report));
        });
    });
}

void hs_member_started(hs_member *m, const char *error, const char *json) {
    event(m, [&](LocalRun &run) {
        answer_with_json(error, json, [&](const LocalRun::Fault &fault, Json report) {
            run.started(fault, std::move(report));
        });
    });
}

void hs_member_memory_done(hs_member *m, const char *error) {
    event(m, [&](LocalRun &run) { run.memory_done(fault_of(error)); });
}

void hs_member_failed(hs_member *m, const char *error) {
    event(m, [&](LocalRun &run) { run.failed(error ? error : "for an unknown reason"); });
}

void hs_member_hold_ended(hs_member *m, const char *error) {
    event(m, [&](LocalRun &run) { run.hold_ended(error ? error : "the hold ended"); });
}

void hs_member_red_frame(hs_member *m) {
    event(m, [](LocalRun &run) { run.red_frame(); });
}

bool hs_member_frame_received(hs_member *m) {
    bool due = false;
    event(m, [&](LocalRun &run) { due = run.frame_received(); });
    return due;
}

void hs_member_beat(hs_member *m, uint64_t done, uint64_t total, uint64_t expected_us) {
    event(m, [&](LocalRun &run) { run.beat({done, total, expected_us}); });
}

bool hs_member_next_step(hs_member *m, hs_step *step) {
    return guarded(nullptr, false, [&] {
        m->current = m->impl.next_step();
        if (m->current) {
            std::visit(Convert{m, step}, *m->current);
        }
        return m->current.has_value();
    });
}

char *hs_member_manifest(hs_member *m, const char *created) {
    return guarded<char *>(nullptr, nullptr, [&]() -> char * {
        if (!m->impl.manifest()) {
            return nullptr;
        }
        Json manifest = *m->impl.manifest();
        manifest["created"] = created;
        return c_string(manifest.dump(4, ' ', false, Json::error_handler_t::replace) + "\n");
    });
}

bool hs_member_busy(const hs_member *m) {
    return m->impl.busy();
}

bool hs_member_aborting(const hs_member *m) {
    return m->impl.aborting();
}

const char *hs_member_state_name(const hs_member *m) {
    return to_string(m->impl.state());
}

uint64_t hs_member_ignored(const hs_member *m) {
    return m->impl.ignored();
}
