// SPDX-License-Identifier: GPL-2.0-or-later
// The restore line: when each member of a restored cluster starts, so that nobody speaks to a
// member that does not run yet, and in which order their windows are loaded until then.
// (HotRestore, LISA '14, 4: the communication-induced restore dependency graph, the restore line.)
//
// Pure. Members are indices. docs/internals/restore-line.md has the argument and its limits.
#ifndef HOTSNAP_COORDINATOR_RESTORE_LINE_H
#define HOTSNAP_COORDINATOR_RESTORE_LINE_H

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace hotsnap::cluster {

// What is known of a member's first words: all of them before `until_us`, and none later. Times are
// microseconds for which it has run. Of a member of which nothing is known `until_us` is 0: it may
// speak to anybody at once.
struct Speaker {
    struct Contact {
        uint32_t to = 0;
        uint64_t us = 0;
        bool operator==(const Contact &) const = default;
    };
    uint64_t until_us = 0;
    std::vector<Contact> contacts; // one to itself, or to no member, means nothing
    bool operator==(const Speaker &) const = default;
};

using ContactGraph = std::vector<Speaker>; // by the member that speaks

// Times are microseconds since loading begins.
struct RestoreLine {
    static constexpr uint64_t whenever = UINT64_MAX;

    // Members that start together: each speaks to another one, over any number of hops.
    struct Group {
        std::vector<uint32_t> members; // ascending
        uint64_t bytes = 0;            // of their windows, which are loaded side by side
        uint64_t begin_us = 0;         // when that begins
        uint64_t ready_us = 0;         // and ends
        uint64_t start_us = 0;         // not before ready_us
        // The latest start, all others' being as they are; `whenever` if nobody speaks to them.
        uint64_t latest_us = whenever;
    };
    struct Member {
        uint32_t group = 0;
        uint64_t bytes_per_second = 0; // its share, so that its group is ready together
    };

    std::vector<Group> groups; // in the order in which they are loaded
    std::vector<Member> members;
    uint64_t all_run_us = 0; // when all windows are loaded, and the last member starts

    std::vector<uint64_t> starts() const; // by member
};

// `windows`: bytes to load before a member starts, by member. `bytes_per_second`: of all together.
// Takes time in proportion to members and contacts, but for two sorts of the members.
RestoreLine restore_line(const ContactGraph &graph, const std::vector<uint64_t> &windows,
                         uint64_t bytes_per_second);

// A member that starts too late for one that speaks to it.
struct LateStart {
    uint32_t speaker = 0, receiver = 0;
    uint64_t late_us = 0;
    bool operator==(const LateStart &) const = default;
};
// The worst one, if these starts are on no restore line.
std::optional<LateStart> find_late_start(const ContactGraph &graph,
                                         const std::vector<uint64_t> &starts);

} // namespace hotsnap::cluster
#endif
