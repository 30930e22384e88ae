// SPDX-License-Identifier: GPL-2.0-or-later
#include "member.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace hotsnap::sim {

namespace {

// Many members are on one host; the clocks of others count from another day.
uint64_t pick_offset(Random &random) {
    constexpr uint64_t ten_days_us = uint64_t{10} * 24 * 3600 * 1'000'000;
    return random.chance(0.5) ? 0 : random.between(1, ten_days_us);
}

} // namespace

Member::Member(World world, std::string name, Incarnation incarnation, std::vector<Nic> nics,
               bool forwards, Random random)
    : world_(world), name_(std::move(name)), incarnation_(incarnation), nics_(std::move(nics)),
      forwards_(forwards), random_(random), clock_offset_us_(pick_offset(random_)),
      coordinator_(hs_coordinator_new(name_.c_str(), nullptr)),
      local_(name_, mediator_,
             clock_offset_us_ == 0 ? "one" : "boot-" + std::to_string(clock_offset_us_)) {
    for (size_t i = 0; i < nics_.size(); i++) {
        mediator_.add_nic("net" + std::to_string(i), nics_[i].mac, nics_[i].vnet_size);
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
                                                   address.c_str(), m.clock_us());
                        });
                    },
                .down =
                    [with](hs_link link, const std::string &address, const std::string &reason) {
                        with([&](Member &m) {
                            m.trace("link down: " + reason);
                            hs_coordinator_link_down(m.coordinator_.get(), link, address.c_str(),
                                                     reason.c_str(), m.clock_us());
                        });
                    },
                .bytes =
                    [with](hs_link link, const std::string &bytes) {
                        with([&](Member &m) {
                            hs_coordinator_bytes(m.coordinator_.get(), link,
                                                 reinterpret_cast<const uint8_t *>(bytes.data()),
                                                 bytes.size(), m.clock_us());
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
    world_.ledger.coverage.meet(local_.state(), Fault::crash);
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
    // Frames that wait in the host for this guest are lost with it.
    const auto excuse = [this](const Frame &frame) {
        for (const uint64_t segment : frame.segments) {
            Segment &lost = world_.ledger.segments[segment];
            lost.excused |= lost.to == name_ || lost.from == incarnation_;
        }
    };
    for (const auto &[nic, frame] : tap_) {
        excuse(frame);
    }
    tap_.clear();
    mediator_.reset();
    for (hs_frame held; mediator_.next_released(held, 0);) {
        excuse(from_bytes(held.data, held.size, held.vnet_header_size));
    }
}

// Commands of the user.

bool Member::initiate(bool restore, const std::string &request) {
    char *error = nullptr;
    const bool good =
        restore ? hs_coordinator_restore(coordinator_.get(), request.c_str(), clock_us(), &error)
                : hs_coordinator_snapshot(coordinator_.get(), request.c_str(), clock_us(), &error);
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
    hs_coordinator_cancel(coordinator_.get(), "changed my mind", clock_us());
    take_actions();
}

void Member::set_duration(uint64_t duration_us) {
    if (hs_coordinator_set_duration(coordinator_.get(), duration_us, clock_us(), nullptr)) {
        trace("gives another duration: " + std::to_string(duration_us) + " us");
        world_.ledger.durations_changed.insert(run_);
    }
    take_actions();
}

std::string Member::why_not_idle() const {
    if (leads_) {
        return "its command has not finished";
    }
    if (stands_still() || !tap_.empty()) {
        return "the guest stands still";
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
            member->take_steps();
            member->take_actions();
        }
    });
}

void Member::after(uint64_t delay_us, std::function<void()> work) {
    world_.events.after(delay_us, [self = weak_from_this(), work = std::move(work)] {
        if (const auto member = self.lock(); member && member->alive_) {
            work();
        }
    });
}

void Member::after_in_run(uint64_t delay_us, std::function<void()> work) {
    after(delay_us, [this, generation = generation_, work = std::move(work)] {
        if (generation_ == generation) {
            work();
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
    switch (action.kind) {
    case HS_DO_WORK: {
        const std::shared_ptr<hs_work> work(action.work, hs_work_free);
        post(random_.between(5, 2000), [this, work] { give_work(work->work); });
        return;
    }
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
            world_.events.at(
                timer_us_ - clock_offset_us_, [self = weak_from_this(), due = timer_us_] {
                    const auto member = self.lock();
                    if (member && member->alive_ && member->timer_us_ == due) {
                        hs_coordinator_tick(member->coordinator_.get(), member->clock_us());
                        member->take_actions();
                    }
                });
        }
        return;
    case HS_SAY_PHASE:
        trace("phase " + text);
        return;
    case HS_SAY_PROGRESS:
        return;
    case HS_SAY_WARNING:
        trace("warning " + text);
        return;
    case HS_SAY_FINISHED:
        trace((action.failed ? "FAILED: " : "finished: ") + text.substr(0, 300));
        leads_ = false;
        world_.ledger.finished++;
        world_.ledger.finished_failed += action.failed;
        return;
    }
}

} // namespace hotsnap::sim
