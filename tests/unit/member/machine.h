// SPDX-License-Identifier: GPL-2.0-or-later
// A machine that carries out and records the steps of a LocalRun: member "b" among "a" and "c".
#ifndef HOTSNAP_TESTS_MEMBER_MACHINE_H
#define HOTSNAP_TESTS_MEMBER_MACHINE_H

#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "member/local_run.h"

namespace hotsnap::member {

using Log = std::vector<std::string>;

class Machine {
  public:
    Machine() { mediator.add_nic("net0", mac_b, 0); }

    // Takes the steps that are due and returns them; `owed` is the one that needs an answer.
    Log take();
    // Gives the answer that is owed, if any.
    void answer(const LocalRun::Fault &fault = std::nullopt);
    // Does both until nothing is owed; returns all steps taken.
    Log answer_all(const LocalRun::Fault &fault = std::nullopt);

    // From idle, by the ordinary course.
    void go_to(State state);

    bool owes() const { return owed.has_value(); }
    void work(LocalWork work) { run.work(std::move(work)); }
    // One frame for the guest, from a, with that color of epoch 2.
    hs_verdict receive(uint8_t color);
    size_t count(const std::string &entry) const; // among all steps ever taken

    static InstallWork table() {
        const auto nics = [](network::Mac mac) {
            return std::vector<network::MemberNic>{{"net0", mac, {}, true}};
        };
        return {2, {{"a", nics(mac_a)}, {"b", nics(mac_b)}, {"c", nics(mac_c)}}};
    }

    static constexpr uint8_t natural = 0, white = 1, red = 2;
    static inline const network::Mac mac_a{0x52540000000a}, mac_b{0x52540000000b},
        mac_c{0x52540000000c};

    network::Mediator mediator;
    LocalRun run{"b", mediator, "boot-1"};
    std::optional<Step> owed; // the step whose answer is due
    bool holds = false;       // disk requests
    size_t frames_held = 0;   // for the guest, by the mediator, not released yet
    Log all;
    std::vector<LocalEvent> events;
};

std::string describe(const Step &step);

inline PrepareWork prepare_work() {
    PrepareWork work;
    work.run = "r";
    work.tag = "t";
    work.leads = true;
    return work;
}

inline LoadWork load_work() {
    LoadWork work;
    work.run = "r";
    work.bundle = "/bundles/t";
    return work;
}

inline const std::vector<State> all_states = [] {
    std::vector<State> states;
    for (size_t i = 0; i < state_count; i++) {
        states.push_back(static_cast<State>(i));
    }
    return states;
}();

} // namespace hotsnap::member
#endif
