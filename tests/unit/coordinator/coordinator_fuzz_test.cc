// SPDX-License-Identifier: GPL-2.0-or-later
// Under any events in any order, a coordinator neither crashes nor gets stuck: once its local work
// is answered and time passes, it is idle again, and every command has finished.
//
// Mostly the event that is due comes, so that runs get far. Now and then another event comes, or
// the due one in a damaged form.
#include <cstdlib>
#include <deque>
#include <functional>

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "hotsnap/coordinator.h"
#include "member/handles.h"
#include "wire/framing.h"
#include "wire/messages.h"
#include "work_json.h"

namespace hotsnap::cluster {
namespace {

const Mac mac_v(0x525400000001), mac_a(0x525400000002), mac_b(0x525400000003);

Json one_of(const std::vector<Json> &choices) {
    return choices[*rc::gen::inRange<size_t>(0, choices.size())];
}

// Replaces one value, anywhere in the JSON.
Json damaged(Json json) {
    if (json.empty() || (!json.is_object() && !json.is_array()) || *rc::gen::inRange(0, 3) == 0) {
        return one_of({7, -1, "x", nullptr, true, Json::array(), Json::object()});
    }
    auto at = json.begin();
    std::advance(at,
                 *rc::gen::inRange<std::ptrdiff_t>(0, static_cast<std::ptrdiff_t>(json.size())));
    *at = damaged(*at);
    return json;
}

class Victim {
  public:
    Victim() : c_(hs_coordinator_new("v", nullptr)) {}
    ~Victim() { hs_coordinator_free(c_); }
    Victim(const Victim &) = delete;
    Victim &operator=(const Victim &) = delete;

    void step() {
        now_ += *rc::gen::element<uint64_t>(1, 1000, 20'000);
        if (!due_.empty() && *rc::gen::inRange(0, 10) < 8) {
            const auto next = due_.front();
            due_.pop_front();
            next();
        } else {
            surprise();
        }
        take();
    }

    // In the end, as in the real world, work is answered and silent links are noticed.
    void calm_down() {
        for (int i = 0; i < 50; i++) {
            for (const char *name : {"PUBLISHED", "STARTED", "ABORTED"}) {
                event(name, nullptr);
                take();
            }
            now_ += 100'000'000;
            hs_coordinator_tick(c_, now_);
            take();
        }
    }

    std::string phase() {
        char *text = hs_coordinator_status_json(c_);
        const Json status = parse_json(text);
        std::free(text);
        return get_string(status, "phase");
    }

    size_t commands = 0, finished = 0, published = 0, committed = 0;

  private:
    void surprise() {
        const hs_link link = *rc::gen::inRange<hs_link>(0, next_link_ + 1);
        switch (*rc::gen::inRange(0, 12)) {
        case 0:
            hs_coordinator_link_up(c_, link, *rc::gen::arbitrary<bool>(), address(), now_);
            break;
        case 1:
            hs_coordinator_link_down(c_, link, address(), nullptr, now_);
            break;
        case 2:
            now_ += *rc::gen::element<uint64_t>(0, 300'000, 40'000'000);
            hs_coordinator_tick(c_, now_);
            break;
        case 3:
        case 4:
            command();
            break;
        case 5:
            hs_coordinator_cancel(c_, nullptr, now_);
            break;
        case 6:
            local(*rc::gen::element("PREPARED", "INSTALLED", "ARMED", "CUT", "CHANNELS_FIN",
                                    "FULL_FIN", "PROGRESS", "BEAT", "PUBLISHED", "ABORTED",
                                    "LOADED", "STARTED", "FAILED", "FLUSHED", "HELD", "SWITCHED"),
                  one_of({Json::object(), {{"error", "broken"}}, {{"error", 5}}, 7}));
            break;
        case 7: // another member becomes our initiator
        case 8: {
            const hs_link inbound = next_link_++;
            hs_coordinator_link_up(c_, inbound, true, nullptr, now_);
            deliver(inbound, Hello{protocol_version, "a"});
            run_ = "r" + std::to_string(inbound);
            barrier_ = *rc::gen::inRange(0, 3) == 0;
            if (barrier_) {
                deliver(inbound,
                        PrepareBarrier{run_, "t", "/b", 200'000, 1'000'000, 30'000'000, {}});
            } else if (*rc::gen::arbitrary<bool>()) {
                deliver(inbound, Prepare{run_, "t", "/b", true, 1000, 1'000'000, 30'000'000, {}});
            } else {
                deliver(inbound, Restore{run_, "/b/t", 1'000'000, 30'000'000, {}});
            }
            break;
        }
        default:
            deliver(link, any_message());
        }
    }

    const char *address() { return *rc::gen::element("unix:a", "unix:b", ""); }

    void command() {
        Json members = Json::array();
        for (const char *name : {"a", "b"}) {
            if (*rc::gen::inRange(0, 3) > 0) {
                members.push_back({{"name", name}, {"address", std::string("unix:") + name}});
            }
        }
        const bool barrier = *rc::gen::inRange(0, 3) == 0;
        const Json request = {{"tag", "t"},
                              {"content", barrier ? "disks" : "all"},
                              {"cut", barrier ? "barrier" : "causal"},
                              {"directory", "/b"},
                              {"bundle", "/b/t"},
                              {"full_timeout_us", 1'000'000'000},
                              {"load_timeout_us", 1'000'000'000},
                              {"settle_us", 0},
                              {"mode", *rc::gen::element<std::string>("hot", "precopy")},
                              {"members", members}};
        const std::string text = to_text(request);
        commands += *rc::gen::inRange(0, 4) > 0
                        ? hs_coordinator_snapshot(c_, text.c_str(), now_, nullptr)
                        : hs_coordinator_restore(c_, text.c_str(), now_, nullptr);
    }

    void take() {
        hs_action action;
        while (hs_coordinator_next_action(c_, &action)) {
            RC_ASSERT(action.text != nullptr);
            RC_ASSERT(std::string(action.text).find("internal error") == std::string::npos);
            switch (action.kind) {
            case HS_SAY_FINISHED:
                finished++;
                break;
            case HS_DO_WORK:
                work(std::unique_ptr<hs_work>(action.work)->work);
                break;
            case HS_DO_CONNECT:
                due_.push_back([this, to = std::string(action.text), link = next_link_++] {
                    hs_coordinator_link_up(c_, link, false, to.c_str(), now_);
                    deliver(link, Hello{protocol_version, to == "unix:a" ? "a" : "b"});
                });
                break;
            case HS_DO_SEND:
                other_side(action);
                break;
            default:
                break;
            }
        }
    }

    void work(const member::LocalWork &work) {
        const std::string kind = member::name_of(work);
        const auto answers = [this](const char *answer, Json json = Json::object()) {
            due_.push_back([this, answer, json = std::move(json)] { local(answer, json); });
        };
        if (kind == "PREPARE") {
            answers("PREPARED", {{"nics", {{{"nic", "net0"}, {"mac", mac_v.to_string()}}}},
                                 {"info", {{"boot_id", "x"}}}});
        } else if (kind == "PRECOPY") {
            answers("PRECOPIED");
        } else if (kind == "INSTALL") {
            answers("INSTALLED");
        } else if (kind == "LISTEN") {
            answers("HEARD", {{"heard", {{mac_a.to_string() + ">" + mac_v.to_string(), 3}}}});
        } else if (kind == "ARM") {
            answers("ARMED");
        } else if (kind == "CUT") {
            answers("CUT", {{"white_sent", {{mac_v.to_string() + ">" + mac_a.to_string(), 3}}},
                            {"heard", {{mac_a.to_string() + ">" + mac_v.to_string(), 3}}},
                            {"pause", {{"begin_ns", 1}, {"end_ns", 2}}}});
        } else if (kind == "EXPECT") {
            answers("CHANNELS_FIN",
                    {{"recorded", 1},
                     {"lost", 0},
                     {"unexpected", {{mac_a.to_string() + ">" + mac_b.to_string(), 4}}}});
        } else if (kind == "END_COLORING") {
            answers("FULL_FIN", {{"memory", {{"file", "v/state"}}}});
        } else if (kind == "FLUSH") {
            answers("FLUSHED");
        } else if (kind == "HOLD") {
            answers("HELD");
        } else if (kind == "SWITCH") {
            answers("SWITCHED", {{"hold", {{"begin_ns", 1}, {"end_ns", 2}}}});
            answers("FULL_FIN", {{"disks", Json::array()}});
        } else if (kind == "PUBLISH") {
            published++;
            answers("PUBLISHED");
        } else if (kind == "ABORT") {
            answers("ABORTED");
        } else if (kind == "LOAD") {
            answers("LOADED");
        } else if (kind == "START") {
            answers("STARTED", {{"played", 0}});
        } else if (kind == "COMMIT") {
            committed++;
        }
    }

    // The answer of a good peer, or of a good initiator.
    void other_side(const hs_action &action) {
        wire::Decoder decoder;
        decoder.feed({action.data, action.size});
        const auto text = decoder.next();
        RC_ASSERT(text.has_value());
        const Message message = decode(*text);
        const std::string run = run_of(message);
        if (!run.empty()) {
            run_ = run;
        }
        const auto says = [this, link = action.link](Message answer) {
            due_.push_back([this, link, answer] { deliver(link, answer); });
        };
        const std::string type = type_of(message);
        const PairCounts counts = {{{mac_a, mac_v}, 2}};
        if (type == "PREPARE" || type == "PREPARE_BARRIER") {
            says(Prepared{run,
                          *rc::gen::element<uint64_t>(0, 1, 5),
                          {{"net0", mac_a, {mac_b}, true}},
                          {{"boot_id", "x"}}});
        } else if (type == "PRECOPY") {
            says(Precopied{run, true, 0});
        } else if (type == "INSTALL") {
            says(Installed{run});
        } else if (type == "LISTEN") {
            says(Heard{run, {{{mac_v, mac_a}, 3}}});
        } else if (type == "ARM") {
            says(Armed{run});
        } else if (type == "SNAPSHOT") {
            says(TransientSnapFin{
                run, counts, {{{mac_v, mac_a}, 3}}, {{"begin_ns", 1}, {"end_ns", 2}}, "snapshot"});
        } else if (type == "ALL_TRANSIENT_SNAP_FIN") {
            says(ChannelsFin{run, 0, 0, 0, counts});
        } else if (type == "COLORING_END") {
            says(FullSnapFin{run, {{"memory", {{"file", "a/state"}}}}});
        } else if (type == "FLUSH") {
            says(Flushed{run});
        } else if (type == "HOLD") {
            says(Held{run});
        } else if (type == "SWITCH") {
            says(Switched{run, {{"begin_ns", 1}, {"end_ns", 2}}});
        } else if (type == "ALL_SWITCHED") {
            says(FullSnapFin{run, {{"disks", Json::array()}}});
        } else if (type == "ABORT") {
            says(Aborted{run, ""});
        } else if (type == "RESTORE") {
            says(Loaded{run, Json::object()});
        } else if (type == "START") {
            says(Started{run, Json::object()});
        } else if (type == "PREPARED" && barrier_) {
            says(Flush{run, 100});
        } else if (type == "FLUSHED") {
            says(Hold{run});
        } else if (type == "HELD") {
            says(Switch{run});
        } else if (type == "SWITCHED") {
            says(AllSwitched{run});
        } else if (type == "PREPARED") {
            says(Install{run,
                         100,
                         {{"a", {{"net0", mac_a, {}, true}}}, {"v", {{"net0", mac_v, {}, true}}}}});
        } else if (type == "INSTALLED") {
            says(Listen{run});
        } else if (type == "HEARD") {
            says(Arm{run});
        } else if (type == "ARMED") {
            says(Snapshot{run});
        } else if (type == "TRANSIENT_SNAP_FIN") {
            says(AllTransientSnapFin{run, counts, counts});
        } else if (type == "CHANNELS_FIN") {
            says(ColoringEnd{run});
        } else if (type == "FULL_SNAP_FIN") {
            says(AllFullSnapFin{run});
        } else if (type == "LOADED") {
            says(Start{run});
        } else if (type == "STARTED") {
            says(Restored{run});
        }
    }

    Message any_message() {
        const std::string run = *rc::gen::element(run_, std::string("r"));
        const std::vector<Message> all = {
            Hello{*rc::gen::inRange<uint64_t>(0, 3), *rc::gen::element<std::string>("a", "v", "")},
            ErrorMessage{"x"},
            Prepare{run, "t", "/b", true, 1000, 1000, 1000, Json::object()},
            Prepared{run, UINT64_MAX, {{"net0", mac_a, {}, true}}, Json::object()},
            Precopy{run},
            Precopied{run, false, 1},
            Refused{run, "no"},
            Install{run, *rc::gen::inRange<uint64_t>(0, 5), {{"a", {{"net0", mac_a, {}, true}}}}},
            Installed{run},
            Listen{run},
            Heard{run, {{{mac_b, mac_v}, 1}}},
            Arm{run},
            Armed{run},
            Snapshot{run},
            TransientSnapFin{
                run, {{{mac_v, mac_b}, 3}}, {{{mac_b, mac_v}, 1}}, Json::object(), "snapshot"},
            AllTransientSnapFin{run, {}, {}},
            ChannelsFin{run, 1, 2, 0, {}},
            ColoringEnd{run},
            FullSnapFin{run, Json::object()},
            AllFullSnapFin{run},
            Abort{run, "x"},
            Aborted{run, "half of it is left"},
            Progress{run, UINT64_MAX, 2},
            Heartbeat{run},
            Restore{run, "/b/t", 1000, 1000, Json::object()},
            Loaded{run, Json::object()},
            Start{run},
            Started{run, Json::object()},
            Restored{run},
            PrepareBarrier{run, "t", "/b", 1000, 1000, 1000, Json::object()},
            Flush{run, *rc::gen::inRange<uint64_t>(0, 5)},
            Flushed{run},
            Hold{run},
            Held{run},
            Switch{run},
            Switched{run, Json::object()},
            AllSwitched{run},
        };
        return all[*rc::gen::inRange<size_t>(0, all.size())];
    }

    void local(const char *name, Json json) {
        const std::string text =
            to_text(*rc::gen::inRange(0, 20) == 0 ? damaged(std::move(json)) : json);
        event(name, *rc::gen::inRange(0, 50) == 0 ? "{" : text.c_str());
    }

    void event(const char *name, const char *json) {
        const auto read = member::event_of(name, json);
        RC_ASSERT(read.has_value());
        hs_coordinator_event(c_, new hs_event{*read}, now_);
    }

    void deliver(hs_link link, const Message &message) {
        std::string stream;
        switch (*rc::gen::inRange(0, 30)) {
        case 0:
            stream = *rc::gen::arbitrary<std::string>();
            break;
        case 1:
        case 2:
            stream = wire::frame(to_text(damaged(parse_json(encode(message)))));
            break;
        default:
            stream = wire::frame(encode(message));
        }
        hs_coordinator_bytes(c_, link, reinterpret_cast<const uint8_t *>(stream.data()),
                             stream.size(), now_);
    }

    hs_coordinator *c_;
    uint64_t now_ = 1;
    std::string run_ = "r";
    bool barrier_ = false; // the kind of the last run that was opened
    hs_link next_link_ = 1;
    std::deque<std::function<void()>> due_;
};

TEST(CoordinatorFuzzTest, NeverStuck) {
    size_t published = 0, committed = 0;
    EXPECT_TRUE(rc::check([&] {
        Victim victim;
        const auto steps = *rc::gen::inRange(1, 1000);
        for (int i = 0; i < steps; i++) {
            victim.step();
        }
        victim.calm_down();
        RC_ASSERT(victim.phase() == "idle");
        RC_ASSERT(victim.commands == victim.finished);
        published += victim.published;
        committed += victim.committed;
    }));
    // Else the runs never got far.
    EXPECT_GT(published, 0u);
    EXPECT_GT(committed, published);
}

} // namespace
} // namespace hotsnap::cluster
