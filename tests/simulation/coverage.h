// SPDX-License-Identifier: GPL-2.0-or-later
// Counts the faults that met a member in each state of its local life. A fault that met no member
// in some state proves nothing about that state.
#ifndef HOTSNAP_SIM_COVERAGE_H
#define HOTSNAP_SIM_COVERAGE_H

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "member/states.h"

namespace hotsnap::sim {

enum class Fault : uint8_t { abort, failure, crash, red_frame, stall };
inline constexpr size_t fault_count = 5;

struct Coverage {
    std::array<size_t, member::state_count> reached{};
    std::array<std::array<size_t, fault_count>, member::state_count> met{};

    void reach(member::State state) { reached[static_cast<size_t>(state)]++; }
    void meet(member::State state, Fault fault) {
        met[static_cast<size_t>(state)][static_cast<size_t>(fault)]++;
    }
    void add(const Coverage &other);

    void print() const;
    // "no crash in state 'arming'", for each state that a fault can meet and did not; not for
    // stalls.
    std::vector<std::string> gaps() const;
};

} // namespace hotsnap::sim
#endif
