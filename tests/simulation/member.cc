// SPDX-License-Identifier: GPL-2.0-or-later
#include "member.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "network/channel_json.h"

namespace hotsnap::sim {

Member::Member(World world, std::string name, Incarnation incarnation, std::vector<Nic> nics,
               Random random)
    : world_(world), name_(std::move(name)), incarnation_(incarnation), nics_(std::move(nics)),
      random_(random), coordinator_(hs_coordinator_new(name_.c_str(), nullptr)) {
    for (size_t i = 0; i < nics_.size(); i++) {
        mediator_.add_nic("net" + std::to_string(i), nics_[i].mac);
    }
}

void Member::trace(const std::string &line) const {
    if (world_.config.trace) {
        std::printf("%10llu %s %s\n", static_cast<unsigned long long>(now()), name_.c_str(),
                    line.c_str());
    }
}

void Member::start() {
    alive_ = true;
    const auto self = weak_from_this();
    const auto with = [self](auto body) {
        if (const auto member = self.lock(); member && member->alive_) {
            body(*member);
            member->take_actions();
        }
    };
    world_.control.attach(
        name_, {.up =
                    [with](hs_link link, bool inbound, const std::string &address) {
                        with([&](Member &m) {
                            hs_coordinator_link_up(m.coordinator_.get(), link, inbound,
                                                   address.c_str(), m.now());
                        });
                    },
                .down =
                    [with](hs_link link, const std::string &address, const std::string &reason) {
                        with([&](Member &m) {
                            m.trace("link down: " + reason);
                            hs_coordinator_link_down(m.coordinator_.get(), link, address.c_str(),
                                                     reason.c_str(), m.now());
                        });
                    },
                .bytes =
                    [with](hs_link link, const std::string &bytes) {
                        with([&](Member &m) {
                            hs_coordinator_bytes(m.coordinator_.get(), link,
                                                 reinterpret_cast<const uint8_t *>(bytes.data()),
                                                 bytes.size(), m.now());
                        });
                    }});
    for (size_t i = 0; i < nics_.size(); i++) {
        world_.network.set_receiver(nics_[i].port, [self, i](const Frame &frame) {
            if (const auto member = self.lock()) {
                member->network_delivers(i, frame);
            }
        });
    }
}

void Member::crash() {
    trace("crashes");
    alive_ = false;
    generation_++;
    if (leads_) {
        world_.ledger.initiators_crashed++;
        leads_ = false;
    }
    for (const Nic &nic : nics_) {
        world_.network.set_receiver(nic.port, nullptr);
    }
    world_.control.detach(name_);
    // Frames that wait in the host for this guest are gone with it.
    const auto excuse = [this](size_t nic, const Frame &frame) {
        for (const uint64_t segment : frame.segments) {
            world_.ledger.segments[segment].excused |= frame.destination == nics_[nic].mac;
        }
    };
    for (const auto &[nic, frame] : tap_) {
        excuse(nic, frame);
    }
    tap_.clear();
    mediator_.reset();
    for (hs_frame held; mediator_.next_released(held);) {
        excuse(held.nic, from_bytes(held.data, held.size, held.vnet_header_size));
    }
}

// The user.

bool Member::initiate(bool restore, const std::string &request) {
    char *error = nullptr;
    const bool good =
        restore ? hs_coordinator_restore(coordinator_.get(), request.c_str(), now(), &error)
                : hs_coordinator_snapshot(coordinator_.get(), request.c_str(), now(), &error);
    trace(good ? "initiates " + request : "cannot initiate: " + std::string(error));
    std::free(error);
    if (good) {
        leads_ = true;
        world_.ledger.commands++;
    }
    take_actions();
    return good;
}

void Member::cancel() {
    trace("cancels");
    hs_coordinator_cancel(coordinator_.get(), "changed my mind", now());
    take_actions();
}

std::string Member::why_not_idle() const {
    if (leads_) {
        return "its command has not finished";
    }
    if (paused_ || !tap_.empty()) {
        return "the guest is paused";
    }
    if (!run_.empty()) {
        return "local work of a run was never ended";
    }
    char *text = hs_coordinator_status_json(coordinator_.get());
    const std::string phase = get_string(parse_json(text), "phase");
    std::free(text);
    return phase == "idle" ? "" : "phase is " + phase;
}

// The coordinator's actions.

void Member::post(uint64_t delay_us, std::function<void()> work) {
    main_loop_us_ = std::max(main_loop_us_, now() + delay_us);
    world_.events.at(main_loop_us_, [self = weak_from_this(), work = std::move(work)] {
        if (const auto member = self.lock(); member && member->alive_) {
            work();
            member->take_actions();
        }
    });
}

void Member::post_in_run(uint64_t delay_us, std::function<void()> work) {
    world_.events.after(
        delay_us, [self = weak_from_this(), generation = generation_, work = std::move(work)] {
            const auto member = self.lock();
            if (member && member->alive_ && member->generation_ == generation) {
                work();
                member->take_actions();
            }
        });
}

void Member::take_actions() {
    hs_action action;
    while (hs_coordinator_next_action(coordinator_.get(), &action)) {
        act(action);
    }
}

void Member::act(const hs_action &action) {
    const std::string text = action.text ? action.text : "";
    const auto later = [this](uint64_t most_us, std::function<void()> work) {
        post(random_.between(5, most_us), std::move(work));
    };
    const hs_action_kind kind = action.kind == HS_DO_WORK ? hs_work_kind(action.work) : action.kind;
    hs_work_free(action.work);
    switch (kind) {
    case HS_DO_CONNECT:
        world_.control.connect(name_, text);
        return;
    case HS_DO_SEND:
        world_.control.send(name_, action.link,
                            std::string(reinterpret_cast<const char *>(action.data), action.size));
        return;
    case HS_DO_CLOSE:
        world_.control.close(name_, action.link);
        return;
    case HS_DO_TIMER:
        timer_us_ = action.deadline_us;
        if (timer_us_ != UINT64_MAX) {
            world_.events.at(timer_us_, [self = weak_from_this(), due = timer_us_] {
                const auto member = self.lock();
                if (member && member->alive_ && member->timer_us_ == due) {
                    hs_coordinator_tick(member->coordinator_.get(), member->now());
                    member->take_actions();
                }
            });
        }
        return;
    case HS_DO_PREPARE:
        later(3000, [this, text] { do_prepare(parse_json(text)); });
        return;
    case HS_DO_INSTALL:
        later(300, [this, text] { do_install(parse_json(text)); });
        return;
    case HS_DO_ARM:
        later(300, [this] { do_arm(); });
        return;
    case HS_DO_CUT:
        later(300, [this] { begin_cut("snapshot"); });
        return;
    case HS_DO_EXPECT:
        later(300, [this, text] { do_expect(text); });
        return;
    case HS_DO_CLOSE_CHANNELS:
        later(300, [this] {
            mediator_.close_channels();
            report_channels();
        });
        return;
    case HS_DO_END_COLORING:
        later(300, [this] {
            mediator_.end_coloring();
            release_frames();
        });
        return;
    case HS_DO_PUBLISH:
        later(2000, [this, text] { do_publish(text); });
        return;
    case HS_DO_COMMIT:
        later(300, [this, text] { do_commit(parse_json(text)); });
        return;
    case HS_DO_ABORT:
        later(2000, [this, text] { do_abort(text); });
        return;
    case HS_DO_LOAD:
        later(2000, [this, text] {
            const Json job = parse_json(text);
            run_ = get_string(job, "run");
            Run &r = run();
            r.name = run_;
            r.restore = true;
            r.initiator = get_string(job, "initiator");
            r.members[name_] = incarnation_;
            post_in_run(random_.between(1000, 100'000), [this] {
                if (!fails("load")) {
                    run().loaded.insert(incarnation_);
                    local(HS_LOCAL_LOADED);
                }
            });
        });
        return;
    case HS_DO_START:
        later(300, [this] {
            if (!fails("start")) {
                run().started.insert(incarnation_);
                local(HS_LOCAL_STARTED, {{"played", 0}, {"start_ns", now() * 1000}});
            }
        });
        return;
    case HS_SAY_PHASE:
        trace("phase " + text);
        return;
    case HS_SAY_PROGRESS:
        return;
    case HS_SAY_FINISHED:
        trace((action.failed ? "FAILED: " : "finished: ") + text.substr(0, 300));
        leads_ = false;
        world_.ledger.finished++;
        world_.ledger.finished_failed += action.failed;
        return;
    case HS_DO_WORK:
        return; // is one of the above
    }
}

void Member::local(hs_local_kind kind, const Json &json) {
    hs_coordinator_local(coordinator_.get(), kind, to_text(json).c_str(), now());
}

bool Member::fails(const char *step) {
    if (!random_.chance(failure_chance_)) {
        return false;
    }
    trace(std::string("fails to ") + step);
    local(HS_LOCAL_FAILED, {{"error", std::string("cannot ") + step}});
    return true;
}

void Member::do_prepare(const Json &job) {
    run_ = get_string(job, "run");
    coloring_ = get_bool(job, "coloring", true);
    Run &r = run();
    r.name = run_;
    r.initiator = get_string(job, "initiator");
    r.members[name_] = incarnation_;
    post_in_run(random_.between(100, 5000), [this] {
        if (fails("prepare")) {
            return;
        }
        Json nics = Json::array();
        for (const Mediator::Nic &nic : mediator_.nics()) {
            nics.push_back({{"nic", nic.name}, {"mac", nic.mac.to_string()}});
        }
        local(HS_LOCAL_PREPARED, {{"nics", nics}, {"info", {{"boot_id", "one"}}}});
    });
}

void Member::do_install(const Json &job) {
    if (run_.empty() || fails("install")) {
        return;
    }
    epoch_ = get_uint(job, "epoch");
    run().epoch = epoch_;
    std::string error;
    if (!mediator_.prepare(epoch_, name_, members_from_json(get_array(job, "members")), coloring_,
                           error)) {
        local(HS_LOCAL_FAILED, {{"error", error}});
        return;
    }
    local(HS_LOCAL_INSTALLED);
}

void Member::do_arm() {
    mediator_.start_coloring();
    white_ = true;
    post_in_run(random_.between(100, 5000), [this] {
        if (!fails("arm")) {
            local(HS_LOCAL_ARMED);
        }
    });
}

// The transient snapshot.

void Member::begin_cut(const char *cause) {
    if (std::exchange(cutting_, true) || fails("cut")) {
        return;
    }
    post_in_run(random_.between(5, 500), [this, cause] {
        paused_ = true;
        const uint64_t begin_us = now();
        post_in_run(random_.between(200, 3000),
                    [this, cause, begin_us] { cut_and_resume(cause, begin_us); });
    });
}

void Member::cut_and_resume(const char *cause, uint64_t begin_us) {
    mediator_.cut();
    run().cuts[incarnation_] = {sequence_};
    white_ = false;
    cut_done_ = true;
    post_in_run(random_.between(50, 500), [this, cause, begin_us] {
        paused_ = false;
        local(HS_LOCAL_CUT, {{"white_sent", counts_to_json(mediator_.white_sent())},
                             {"pause", {{"begin_ns", begin_us * 1000}, {"end_ns", now() * 1000}}},
                             {"cause", cause}});
        release_frames();
        copy(random_.chance(0.3) ? random_.between(10, 2000) : random_.between(1000, 150'000));
    });
}

void Member::copy(uint64_t left_us) {
    const uint64_t step = std::min<uint64_t>(left_us, 50'000);
    post_in_run(step, [this, left_us, step] {
        local(HS_LOCAL_PROGRESS, {{"done", 1000}, {"total", 2000}});
        if (left_us > step) {
            copy(left_us - step);
        } else if (!fails("write the image: no space left")) {
            copied_ = true;
            report_full();
        }
    });
}

void Member::do_expect(const std::string &text) {
    std::string error;
    if (run_.empty()) {
        return;
    }
    if (!mediator_.expect(counts_from_json(parse_json(text)), error)) {
        local(HS_LOCAL_FAILED, {{"error", error}});
        return;
    }
    expecting_ = true;
    report_channels();
}

void Member::report_channels() {
    if (!expecting_ || channels_done_ || !mediator_.channels_complete()) {
        return;
    }
    channels_done_ = true;
    const hs_mediator_stats stats = mediator_.stats();
    local(HS_LOCAL_CHANNELS_FIN, {{"recorded", stats.recorded}, {"lost", stats.lost}});
    report_full();
}

void Member::report_full() {
    if (!copied_ || !channels_done_ || std::exchange(reported_, true)) {
        return;
    }
    std::vector<std::pair<uint64_t, size_t>> recorded;
    for (const ChannelFrame &frame : mediator_.record().frames()) {
        const Frame read = from_bytes(frame.data.data(), frame.data.size(), frame.vnet_size);
        for (const uint64_t segment : read.segments) {
            recorded.push_back({segment, frame.nic});
        }
    }
    if (mutated(Mutation::lose_record) && !recorded.empty()) {
        recorded.pop_back();
    }
    run().recorded[incarnation_] = std::move(recorded);
    run().complete.insert(incarnation_);
    local(HS_LOCAL_FULL_FIN, {{"memory", {{"file", name_ + "/state"}}}});
    take_actions();
    if (world_.on_complete) {
        world_.on_complete(*this);
    }
}

// The end of a run.

void Member::do_publish(const std::string &text) {
    if (run_.empty() || fails("publish")) {
        return;
    }
    const Json manifest = parse_json(text);
    Run &r = run();
    r.published = true;
    for (const Json &member : get_array(manifest, "members")) {
        const std::string name = get_string(member, "name");
        r.named.push_back(name);
        if (const auto at = r.members.find(name); at != r.members.end()) {
            r.declared_lost[at->second] = get_uint(get_object(member, "channel"), "lost");
        }
    }
    local(HS_LOCAL_PUBLISHED);
}

void Member::do_commit(const Json &job) {
    if (!get_bool(job, "in_doubt", false)) {
        run().committed.insert(incarnation_);
    } else if (mutated(Mutation::abort_in_doubt)) {
        run().aborted.insert(incarnation_);
    } else {
        run().in_doubt.insert(incarnation_);
    }
    end_run();
}

void Member::do_abort(const std::string &reason) {
    trace("aborts: " + reason);
    if (!run_.empty()) {
        run().aborted.insert(incarnation_);
    }
    end_run();
    if (!mutated(Mutation::mute_abort)) {
        local(HS_LOCAL_ABORTED);
    }
}

void Member::end_run() {
    generation_++;
    run_.clear();
    paused_ = white_ = cutting_ = cut_done_ = false;
    expecting_ = channels_done_ = copied_ = reported_ = false;
    mediator_.reset();
    release_frames();
}

} // namespace hotsnap::sim
