// SPDX-License-Identifier: GPL-2.0-or-later
#include "coverage.h"

#include <algorithm>
#include <cstdio>
#include <initializer_list>

namespace hotsnap::sim {

namespace {

using member::State;

constexpr const char *fault_names[fault_count] = {"abort", "failure", "crash", "red-frame",
                                                  "stall"};

bool is_one_of(State state, std::initializer_list<State> states) {
    return std::find(states.begin(), states.end(), state) != states.end();
}

bool can_meet(State state, Fault fault) {
    switch (fault) {
    case Fault::abort: // never during a publication, never twice
        return !is_one_of(state, {State::idle, State::publishing, State::published, State::ending,
                                  State::undoing});
    case Fault::failure: // of the machine's step in that state
        return is_one_of(state,
                         {State::beginning, State::preparing, State::precopying, State::arming,
                          State::cutting, State::flushing, State::holding, State::switching,
                          State::saving, State::recording, State::publishing, State::undoing,
                          State::loading, State::starting});
    case Fault::crash:
        return true;
    case Fault::red_frame: // the first one: forged, or from a member that was cut before
        return is_one_of(state, {State::arming, State::armed});
    case Fault::stall:
        return true;
    }
    return false;
}

} // namespace

void Coverage::add(const Coverage &other) {
    for (size_t s = 0; s < met.size(); s++) {
        reached[s] += other.reached[s];
        for (size_t f = 0; f < fault_count; f++) {
            met[s][f] += other.met[s][f];
        }
    }
}

void Coverage::print() const {
    std::printf("%-12s %9s", "local state", "reached");
    for (const char *fault : fault_names) {
        std::printf(" %9s", fault);
    }
    std::printf("   ('-': cannot meet)\n");
    for (size_t s = 0; s < met.size(); s++) {
        const auto state = static_cast<State>(s);
        std::printf("%-12s %9zu", member::to_string(state), reached[s]);
        for (size_t f = 0; f < fault_count; f++) {
            if (met[s][f] == 0 && !can_meet(state, static_cast<Fault>(f))) {
                std::printf(" %9s", "-");
            } else {
                std::printf(" %9zu", met[s][f]);
            }
        }
        std::printf("\n");
    }
}

std::vector<std::string> Coverage::gaps() const {
    std::vector<std::string> gaps;
    for (size_t s = 0; s < met.size(); s++) {
        for (size_t f = 0; f < fault_count; f++) {
            const auto state = static_cast<State>(s);
            const auto fault = static_cast<Fault>(f);
            if (fault == Fault::stall) {
                continue; // a stall only delays events
            }
            if (met[s][f] == 0 && can_meet(state, fault)) {
                gaps.push_back(std::string("no ") + fault_names[f] + " in state '" +
                               member::to_string(state) + "'");
            }
        }
    }
    return gaps;
}

} // namespace hotsnap::sim
