// SPDX-License-Identifier: GPL-2.0-or-later
#include "machine.h"

#include <algorithm>

namespace hotsnap::member {

namespace {

const char *name_of(hs_task task) {
    constexpr const char *names[] = {"",       "prepare", "precopy", "arm",
                                     "settle", "channel", "publish", "undo"};
    return names[task];
}

const char *name_of(const LocalEvent &event) {
    constexpr const char *names[] = {"prepared",  "precopied",    "installed", "heard",    "armed",
                                     "cut",       "channels-fin", "full-fin",  "progress", "beat",
                                     "published", "aborted",      "loaded",    "started",  "failed",
                                     "flushed",   "held",         "switched"};
    return names[event.index()];
}

bool needs_answer(const Step &step) {
    return !std::holds_alternative<ReleaseFrames>(step) && !std::holds_alternative<Pace>(step) &&
           !std::holds_alternative<Tell>(step) && !std::holds_alternative<ForgetRun>(step) &&
           !std::holds_alternative<StopVm>(step) && !std::holds_alternative<EndLoad>(step) &&
           !std::holds_alternative<ReleaseRequests>(step);
}

} // namespace

std::string describe(const Step &step) {
    if (const auto *task = std::get_if<RunTask>(&step)) {
        return std::string("task ") + name_of(task->task);
    }
    if (const auto *tell = std::get_if<Tell>(&step)) {
        return std::string("tell ") + name_of(tell->event);
    }
    if (const auto *cut = std::get_if<TakeCut>(&step)) {
        return "cut for " + cut->cause;
    }
    if (const auto *forget = std::get_if<ForgetRun>(&step)) {
        return forget->in_doubt ? "forget in doubt"
               : forget->kept   ? "forget kept"
                                : "forget undone";
    }
    constexpr const char *names[] = {
        "begin", "",     "",      "pace", "release",  "report", "undo",   "",
        "",      "load", "start", "stop", "end load", "hold",   "switch", "release requests"};
    return names[step.index()];
}

Log Machine::take() {
    Log log;
    while (const std::optional<Step> step = run.next_step()) {
        log.push_back(describe(*step));
        if (needs_answer(*step)) {
            EXPECT_FALSE(owed) << log.back() << " while " << describe(*owed) << " is under way";
            owed = step;
        } else if (std::holds_alternative<ReleaseFrames>(*step)) {
            for (hs_frame frame; mediator.next_released(frame, 1);) {
                frames_held -= frame.direction == HS_TO_GUEST; // others are probes
            }
        } else if (const auto *tell = std::get_if<Tell>(&*step)) {
            events.push_back(tell->event);
        } else if (std::holds_alternative<ReleaseRequests>(*step)) {
            holds = false;
        } else if (std::holds_alternative<EndLoad>(*step) ||
                   std::holds_alternative<StopVm>(*step)) {
            owed.reset();
        }
    }
    all.insert(all.end(), log.begin(), log.end());
    return log;
}

void Machine::answer(const LocalRun::Fault &fault) {
    if (!owed) {
        return;
    }
    const Step step = *std::exchange(owed, std::nullopt);
    if (std::holds_alternative<BeginSnapshot>(step)) {
        run.begun(fault);
    } else if (const auto *task = std::get_if<RunTask>(&step)) {
        run.task_done(task->task, fault);
    } else if (std::holds_alternative<TakeCut>(step)) {
        if (!fault) {
            mediator.cut();
        }
        run.cut_done(fault, {{"begin_ns", 1}, {"end_ns", 2}});
    } else if (std::holds_alternative<HoldRequests>(step)) {
        holds = !fault;
        run.held(fault);
    } else if (std::holds_alternative<SwitchDisks>(step)) {
        EXPECT_TRUE(holds || fault);
        holds = false;
        run.switched(fault, {{"begin_ns", 1}, {"end_ns", 2}});
    } else if (std::holds_alternative<MakeReport>(step)) {
        run.report(fault, {{"memory", 1}});
    } else if (std::holds_alternative<UndoRest>(step)) {
        run.undone(fault);
    } else if (std::holds_alternative<BeginLoad>(step)) {
        run.loaded(fault, Json::object());
    } else if (std::holds_alternative<StartVm>(step)) {
        run.started(fault, {{"played", 0}});
    }
}

Log Machine::answer_all(const LocalRun::Fault &fault) {
    Log log = take();
    while (owed) {
        answer(fault);
        const Log more = take();
        log.insert(log.end(), more.begin(), more.end());
    }
    return log;
}

void Machine::go_to(State state) {
    const bool restore = state >= State::loading;
    const auto at = [&] { return run.state() == state; };
    const auto then = [&](auto next) {
        if (!at()) {
            next();
            take();
        }
    };
    const auto answered = [&] { answer(); };
    if (restore) {
        then([&] { work(load_work()); });
        if (state == State::load_failed) {
            then([&] { answer("cannot load"); });
        }
        then(answered);
        then([&] { work(StartWork{}); });
        then(answered);
        return;
    }
    then([&] { work(prepare_work()); });
    then(answered); // preparing
    if (state == State::failed) {
        then([&] { run.failed("no luck"); });
        answer();
        take();
    } else if (state == State::ending) {
        then([&] { work(AbortWork{"no luck"}); });
    } else if (state == State::undoing) {
        then([&] { work(AbortWork{"no luck"}); });
        then(answered);
    }
    then(answered); // prepared
    if (state == State::precopying) {
        then([&] { work(PrecopyWork{}); });
    }
    if (state >= State::flushing && state <= State::switching) {
        then([&] { work(FlushWork{}); });
        then(answered); // flushed
        then([&] { work(HoldWork{5}); });
        then(answered); // held
        then([&] { work(SwitchWork{}); });
    }
    then([&] { work(table()); });
    then([&] { work(ArmWork{}); });
    then(answered); // armed
    then([&] { work(CutWork{}); });
    then(answered); // saving
    then([&] { work(ExpectWork{}); });
    then([&] { run.memory_done(std::nullopt); });
    then(answered); // recording
    then(answered); // reporting
    then(answered); // complete
    then([&] { work(PublishWork{{{"tag", "t"}}}); });
    then(answered); // published
    EXPECT_TRUE(at()) << to_string(run.state()) << " instead of " << to_string(state);
}

hs_verdict Machine::receive(uint8_t color) {
    static const network::MemberTable aliases = [] {
        std::string error;
        return *network::MemberTable::build(table().members, error);
    }();
    const network::Color colors[] = {network::Color::natural, network::Color::white,
                                     network::Color::red};
    network::Mac source = mac_a;
    if (color != natural) {
        source = aliases.alias(aliases.senders(mac_a).at(0), {colors[color], false});
    }
    std::vector<uint8_t> data(15);
    mac_b.to_bytes(&data[0]);
    source.to_bytes(&data[6]);
    data[12] = 0x08;
    data[14] = 1;
    const hs_frame frame{0, HS_TO_GUEST, data.data(), data.size(), 0, 0};
    const hs_verdict verdict = mediator.frame(frame, 1, source);
    frames_held += verdict != HS_PASS;
    return verdict;
}

size_t Machine::count(const std::string &entry) const {
    return static_cast<size_t>(std::count(all.begin(), all.end(), entry));
}

} // namespace hotsnap::member
