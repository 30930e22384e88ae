// SPDX-License-Identifier: GPL-2.0-or-later
#include "restore_line.h"

#include <algorithm>
#include <numeric>
#include <queue>
#include <utility>

namespace hotsnap::cluster {

namespace {

constexpr uint64_t second_us = 1'000'000;
// Bounds that no cluster reaches. They keep all sums below 2^63: hints may be hostile.
constexpr uint64_t most_bytes = uint64_t{1} << 46; // of a window
constexpr uint64_t most_rate = uint64_t{1} << 40;
constexpr uint64_t farthest_us = uint64_t{1} << 60;
constexpr uint32_t none = UINT32_MAX;

uint64_t sum(uint64_t a, uint64_t b) {
    return std::min(a, farthest_us) + std::min(b, farthest_us);
}

uint64_t time_to_load(uint64_t bytes, uint64_t rate) {
    const uint64_t seconds = bytes / rate;
    return seconds >= farthest_us / second_us
               ? farthest_us
               : seconds * second_us + (bytes % rate * second_us + rate - 1) / rate;
}

/*
 * Strongly connected components (Tarjan), without recursion: hostile contacts may form a chain of
 * all members. A component comes after those that it has edges to.
 */
class Components {
  public:
    explicit Components(const std::vector<std::vector<uint32_t>> &edges)
        : edges_(edges), of_(edges.size(), none), number_(edges.size(), none), low_(edges.size()) {
        for (uint32_t member = 0; member < edges.size(); member++) {
            if (number_[member] == none) {
                visit(member);
            }
        }
    }

    std::vector<std::vector<uint32_t>> members;             // by component
    const std::vector<uint32_t> &of() const { return of_; } // by member

  private:
    struct Call {
        uint32_t member;
        size_t next = 0; // of its edges
    };

    void visit(uint32_t root) {
        std::vector<Call> calls;
        enter(root, calls);
        while (!calls.empty()) {
            Call &call = calls.back();
            const uint32_t from = call.member;
            if (call.next < edges_[from].size()) {
                const uint32_t to = edges_[from][call.next++];
                if (number_[to] == none) {
                    enter(to, calls); // `call` is no longer valid
                } else if (of_[to] == none) {
                    low_[from] = std::min(low_[from], number_[to]);
                }
                continue;
            }
            calls.pop_back();
            if (!calls.empty()) {
                uint32_t &low = low_[calls.back().member];
                low = std::min(low, low_[from]);
            }
            if (low_[from] == number_[from]) {
                close(from);
            }
        }
    }
    void enter(uint32_t member, std::vector<Call> &calls) {
        number_[member] = low_[member] = count_++;
        open_.push_back(member);
        calls.push_back({member});
    }
    void close(uint32_t root) {
        std::vector<uint32_t> component;
        do {
            component.push_back(open_.back());
            open_.pop_back();
            of_[component.back()] = static_cast<uint32_t>(members.size());
        } while (component.back() != root);
        std::sort(component.begin(), component.end());
        members.push_back(std::move(component));
    }

    const std::vector<std::vector<uint32_t>> &edges_;
    std::vector<uint32_t> of_, number_, low_, open_;
    uint32_t count_ = 0;
};

class Planner {
  public:
    Planner(const ContactGraph &graph, const std::vector<uint64_t> &windows, uint64_t rate)
        : graph_(graph), rate_(std::clamp<uint64_t>(rate, 1, most_rate)), windows_(windows) {
        windows_.resize(graph.size());
        for (uint64_t &window : windows_) {
            window = std::min(window, most_bytes);
        }
        end_us_ =
            time_to_load(std::accumulate(windows_.begin(), windows_.end(), uint64_t{0}), rate_);
    }

    RestoreLine plan() {
        find_groups();
        // No order is the best for all clusters, and to find the best is NP-hard (with weights it
        // is 1|prec|sum wC: Lawler 1978). One of these is good: receivers first, so that nobody
        // waits once it is ready; or short windows first, when words come late enough.
        use_order(receivers_first());
        std::vector<Group> first = groups_;
        const double total = total_start();
        use_order(shortest_first());
        if (total <= total_start()) {
            groups_ = std::move(first);
        }
        find_latest();
        return result();
    }

  private:
    using Group = RestoreLine::Group;

    template <typename Each> void for_each_contact(uint32_t from, Each each) const {
        for (const Speaker::Contact &contact : graph_[from].contacts) {
            if (contact.to < graph_.size() && contact.to != from) {
                each(contact);
            }
        }
    }

    // A contact at or after the end of all loading binds nobody: everybody runs then.
    void find_groups() {
        std::vector<std::vector<uint32_t>> binding(graph_.size());
        for (uint32_t from = 0; from < graph_.size(); from++) {
            for_each_contact(from, [&](const Speaker::Contact &contact) {
                if (contact.us < end_us_) {
                    binding[from].push_back(contact.to);
                }
            });
        }
        const Components components(binding);
        group_of_ = components.of();
        groups_.resize(components.members.size());
        receivers_.resize(groups_.size());
        for (uint32_t group = 0; group < groups_.size(); group++) {
            groups_[group].members = components.members[group];
            for (const uint32_t member : groups_[group].members) {
                groups_[group].bytes += windows_[member];
                for (const uint32_t to : binding[member]) {
                    if (group_of_[to] != group) {
                        receivers_[group].push_back(group_of_[to]);
                    }
                }
            }
        }
    }

    // Few bytes for many members come first; of equals, the one with the lowest member.
    bool is_better(uint32_t a, uint32_t b) const {
        const double for_a = bytes_each(a), for_b = bytes_each(b);
        return for_a != for_b ? for_a < for_b
                              : groups_[a].members.front() < groups_[b].members.front();
    }
    double bytes_each(uint32_t group) const {
        return static_cast<double>(groups_[group].bytes) /
               static_cast<double>(groups_[group].members.size());
    }

    std::vector<uint32_t> shortest_first() const {
        std::vector<uint32_t> order(groups_.size());
        std::iota(order.begin(), order.end(), 0u);
        std::sort(order.begin(), order.end(),
                  [this](uint32_t a, uint32_t b) { return is_better(a, b); });
        return order;
    }

    std::vector<uint32_t> receivers_first() const {
        std::vector<uint32_t> missing(groups_.size()); // receivers that are not in the order yet
        std::vector<std::vector<uint32_t>> speakers(groups_.size());
        const auto worse = [this](uint32_t a, uint32_t b) { return is_better(b, a); };
        std::priority_queue<uint32_t, std::vector<uint32_t>, decltype(worse)> free(worse);
        for (uint32_t group = 0; group < groups_.size(); group++) {
            missing[group] = static_cast<uint32_t>(receivers_[group].size());
            for (const uint32_t receiver : receivers_[group]) {
                speakers[receiver].push_back(group);
            }
            if (missing[group] == 0) {
                free.push(group);
            }
        }
        std::vector<uint32_t> order;
        while (!free.empty()) {
            const uint32_t group = free.top();
            free.pop();
            order.push_back(group);
            for (const uint32_t speaker : speakers[group]) {
                if (--missing[speaker] == 0) {
                    free.push(speaker);
                }
            }
        }
        return order;
    }

    /*
     * The earliest starts for this order. Groups are numbered receivers first, so the start of each
     * depends on lower numbers only; and the last one starts at end_us_, when all are loaded.
     */
    void use_order(const std::vector<uint32_t> &order) {
        uint64_t loaded = 0;
        for (const uint32_t number : order) {
            Group &group = groups_[number];
            group.begin_us = time_to_load(loaded, rate_);
            loaded += group.bytes;
            group.ready_us = time_to_load(loaded, rate_);
        }
        for (uint32_t number = 0; number < groups_.size(); number++) {
            Group &group = groups_[number];
            group.start_us = group.ready_us;
            const auto not_before = [&](uint64_t start_us, uint64_t after_us) {
                if (start_us > after_us) {
                    group.start_us = std::max(group.start_us, start_us - after_us);
                }
            };
            for (const uint32_t member : group.members) {
                not_before(end_us_, graph_[member].until_us);
                for_each_contact(member, [&](const Speaker::Contact &contact) {
                    if (contact.us < end_us_ && group_of_[contact.to] != number) {
                        not_before(groups_[group_of_[contact.to]].start_us, contact.us);
                    }
                });
            }
        }
    }

    double total_start() const { // of all members
        double total = 0;
        for (const Group &group : groups_) {
            total +=
                static_cast<double>(group.start_us) * static_cast<double>(group.members.size());
        }
        return total;
    }

    void find_latest() {
        struct {
            uint64_t us = RestoreLine::whenever;
            uint32_t group = none;
        } first, second; // whose knowledge ends first, of two groups
        for (uint32_t number = 0; number < groups_.size(); number++) {
            const uint64_t start_us = groups_[number].start_us;
            uint64_t until_us = RestoreLine::whenever;
            for (const uint32_t member : groups_[number].members) {
                until_us = std::min(until_us, sum(start_us, graph_[member].until_us));
                for_each_contact(member, [&](const Speaker::Contact &contact) {
                    if (group_of_[contact.to] != number) {
                        uint64_t &latest = groups_[group_of_[contact.to]].latest_us;
                        latest = std::min(latest, sum(start_us, contact.us));
                    }
                });
            }
            if (until_us < first.us) {
                second = std::exchange(first, {until_us, number});
            } else if (until_us < second.us) {
                second = {until_us, number};
            }
        }
        for (uint32_t number = 0; number < groups_.size(); number++) {
            uint64_t &latest = groups_[number].latest_us;
            latest = std::min(latest, first.group == number ? second.us : first.us);
        }
    }

    RestoreLine result() {
        RestoreLine line;
        std::vector<uint32_t> order(groups_.size());
        std::iota(order.begin(), order.end(), 0u);
        std::sort(order.begin(), order.end(), [this](uint32_t a, uint32_t b) {
            return std::pair(groups_[a].ready_us, groups_[a].members.front()) <
                   std::pair(groups_[b].ready_us, groups_[b].members.front());
        });
        line.members.resize(graph_.size());
        line.all_run_us = end_us_;
        for (const uint32_t number : order) {
            Group &group = groups_[number];
            for (const uint32_t member : group.members) {
                line.members[member] = {static_cast<uint32_t>(line.groups.size()),
                                        share(windows_[member], group.bytes)};
            }
            line.groups.push_back(std::move(group));
        }
        return line;
    }
    // Not 0 of a window, however small, since that would never be loaded.
    uint64_t share(uint64_t window, uint64_t of_bytes) const {
        if (window == 0) {
            return 0;
        }
        const double exact = static_cast<double>(rate_) * static_cast<double>(window) /
                             static_cast<double>(of_bytes);
        return std::max<uint64_t>(static_cast<uint64_t>(exact), 1);
    }

    const ContactGraph &graph_;
    const uint64_t rate_;
    std::vector<uint64_t> windows_;
    uint64_t end_us_ = 0;                          // all windows are loaded
    std::vector<Group> groups_;                    // a group comes after those that it speaks to
    std::vector<uint32_t> group_of_;               // by member
    std::vector<std::vector<uint32_t>> receivers_; // by group, one for each binding contact
};

} // namespace

std::vector<uint64_t> RestoreLine::starts() const {
    std::vector<uint64_t> starts;
    for (const Member &member : members) {
        starts.push_back(groups[member.group].start_us);
    }
    return starts;
}

RestoreLine restore_line(const ContactGraph &graph, const std::vector<uint64_t> &windows,
                         uint64_t bytes_per_second) {
    return Planner(graph, windows, bytes_per_second).plan();
}

std::optional<LateStart> find_late_start(const ContactGraph &graph,
                                         const std::vector<uint64_t> &starts) {
    LateStart worst;
    const auto look = [&](uint32_t from, uint32_t to, uint64_t us) {
        const uint64_t due_us = sum(starts[from], us);
        if (starts[to] > due_us && starts[to] - due_us > worst.late_us) {
            worst = {from, to, starts[to] - due_us};
        }
    };
    const auto last =
        static_cast<uint32_t>(std::max_element(starts.begin(), starts.end()) - starts.begin());
    for (uint32_t from = 0; from < graph.size(); from++) {
        look(from, last, graph[from].until_us);
        for (const Speaker::Contact &contact : graph[from].contacts) {
            if (contact.to < graph.size()) {
                look(from, contact.to, contact.us);
            }
        }
    }
    return worst.late_us > 0 ? std::optional(worst) : std::nullopt;
}

} // namespace hotsnap::cluster
