// SPDX-License-Identifier: GPL-2.0-or-later
// The restore line, compared with brute force, and against its checker. One byte loads in one
// microsecond, so windows are times.
#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>

#include <gtest/gtest.h>

#include "restore_line.h"

namespace hotsnap::cluster {
namespace {

constexpr uint64_t rate = 1'000'000;
constexpr uint64_t ages = 1'000'000'000; // longer than anything is loaded

using Starts = std::vector<uint64_t>;

Speaker speaks(std::vector<Speaker::Contact> contacts, uint64_t until_us = ages) {
    return {until_us, std::move(contacts)};
}

RestoreLine line_of(const ContactGraph &graph, const std::vector<uint64_t> &windows) {
    return restore_line(graph, windows, rate);
}

TEST(RestoreLine, WithoutWordsEachMemberStartsWhenItIsReady) {
    const RestoreLine line = line_of({speaks({}), speaks({}), speaks({})}, {30, 10, 20});
    EXPECT_EQ(line.starts(), Starts({60, 10, 30}));
    EXPECT_EQ(line.all_run_us, 60u);
}

TEST(RestoreLine, AReceiverStartsBeforeWhoSpeaksToItAtOnce) {
    const RestoreLine line = line_of({speaks({{1, 0}}), speaks({})}, {10, 30});
    EXPECT_EQ(line.starts(), Starts({40, 30}));
    EXPECT_EQ(line.groups[0].latest_us, 40u);
    EXPECT_EQ(line.groups[1].latest_us, ages + 30) << "only for as long as the other is known";
}

TEST(RestoreLine, WhoSpeaksLateNeedNotWait) {
    const RestoreLine line = line_of({speaks({{1, 25}}), speaks({})}, {10, 30});
    EXPECT_EQ(line.starts(), Starts({15, 40}));
}

TEST(RestoreLine, ACycleStartsTogetherAndIsReadyTogether) {
    const RestoreLine line = line_of(
        {speaks({{1, 3}}), speaks({{2, 0}}), speaks({{0, 5}}), speaks({{0, 0}})}, {10, 20, 30, 1});
    EXPECT_EQ(line.starts(), Starts({60, 60, 60, 61}));
    EXPECT_EQ(line.groups[0].members, (std::vector<uint32_t>{0, 1, 2}));
    EXPECT_EQ(line.members[0].bytes_per_second, rate / 6);
    EXPECT_EQ(line.members[1].bytes_per_second, rate / 3);
    EXPECT_EQ(line.members[2].bytes_per_second, rate / 2);
    EXPECT_EQ(line.members[3].bytes_per_second, rate);
}

TEST(RestoreLine, WordsAfterAllRunBindNobody) {
    const RestoreLine line = line_of({speaks({{1, 30}}), speaks({{0, 30}})}, {10, 20});
    EXPECT_EQ(line.starts(), Starts({10, 30}));
    EXPECT_EQ(line.groups.size(), 2u);
}

// As a restore without hints does it: all at one instant.
TEST(RestoreLine, WithoutHintsAllStartTogether) {
    EXPECT_EQ(line_of(ContactGraph(3), {10, 20, 30}).starts(), Starts({60, 60, 60}));
}

TEST(RestoreLine, AMemberOfWhichNothingIsKnownStartsWithTheLast) {
    EXPECT_EQ(line_of({speaks({}), {}, speaks({})}, {10, 20, 30}).starts(), Starts({10, 60, 60}));
    EXPECT_EQ(line_of({speaks({}), {45, {}}, speaks({})}, {10, 20, 30}).starts(),
              Starts({10, 30, 60}));
}

TEST(RestoreLine, NothingToLoad) {
    EXPECT_EQ(line_of({}, {}).all_run_us, 0u);
    EXPECT_EQ(line_of({speaks({{1, 0}}), {}}, {0, 0}).starts(), Starts({0, 0}));
    EXPECT_EQ(restore_line({speaks({})}, {5}, 0).starts(), Starts({5'000'000}));
}

// Hints and windows that no cluster has: the line is one all the same.
TEST(RestoreLine, HostileNumbers) {
    const uint64_t huge = UINT64_MAX;
    const ContactGraph graph = {speaks({{1, huge}, {0, 0}, {7, 0}, {2, 0}, {2, 0}}, huge),
                                speaks({{0, 0}, {UINT32_MAX, 0}}, 0), speaks({{2, 1}}, huge)};
    for (const uint64_t speed : {uint64_t{0}, uint64_t{1}, rate, huge}) {
        for (const std::vector<uint64_t> &windows :
             std::vector<std::vector<uint64_t>>{{huge, huge, huge}, {huge, 0, 1}, {}, {0, 0, 0}}) {
            const RestoreLine line = restore_line(graph, windows, speed);
            EXPECT_EQ(line.starts().size(), 3u);
            EXPECT_EQ(find_late_start(graph, line.starts()), std::nullopt);
        }
    }
}

// Random clusters

using Random = std::mt19937_64;

uint64_t pick(Random &random, uint64_t below) {
    return random() % below;
}

struct Cluster {
    ContactGraph graph;
    std::vector<uint64_t> windows;
};

Cluster random_cluster(Random &random, uint64_t members, uint64_t window, uint64_t late,
                       uint64_t contacts) {
    Cluster cluster;
    const uint64_t each = pick(random, contacts + 1);
    for (uint64_t member = 0; member < members; member++) {
        Speaker speaker{pick(random, 4) ? ages : pick(random, 2 * late), {}};
        for (uint64_t n = pick(random, each + 1); n > 0; n--) {
            speaker.contacts.push_back(
                {static_cast<uint32_t>(pick(random, members)), pick(random, late)});
        }
        cluster.graph.push_back(std::move(speaker));
        cluster.windows.push_back(pick(random, window));
    }
    return cluster;
}

// Brute force: what is bound to what, over any number of hops.
std::vector<std::vector<bool>> reach(const Cluster &cluster, uint64_t end) {
    const size_t n = cluster.graph.size();
    std::vector<std::vector<bool>> can(n, std::vector<bool>(n, false));
    for (size_t from = 0; from < n; from++) {
        can[from][from] = true;
        for (const auto &contact : cluster.graph[from].contacts) {
            can[from][contact.to] = can[from][contact.to] || contact.us < end;
        }
    }
    for (size_t by = 0; by < n; by++) {
        for (size_t from = 0; from < n; from++) {
            for (size_t to = 0; to < n; to++) {
                can[from][to] = can[from][to] || (can[from][by] && can[by][to]);
            }
        }
    }
    return can;
}

// The rule itself, word by word and not as find_late_start() has it: whoever is spoken to runs.
bool nobody_speaks_to_who_does_not_run(const ContactGraph &graph, const Starts &starts) {
    for (size_t from = 0; from < graph.size(); from++) {
        for (const auto &contact : graph[from].contacts) {
            if (starts[contact.to] > starts[from] + contact.us) {
                return false;
            }
        }
        for (const uint64_t start : starts) {
            if (start > starts[from] + graph[from].until_us) {
                return false;
            }
        }
    }
    return true;
}

TEST(RestoreLine, BruteForceGroups) {
    Random random(1);
    for (int round = 0; round < 500; round++) {
        const Cluster cluster = random_cluster(random, 1 + pick(random, 7), 5, 20, 3);
        const RestoreLine line = line_of(cluster.graph, cluster.windows);
        const auto can = reach(cluster, line.all_run_us);
        for (size_t a = 0; a < can.size(); a++) {
            for (size_t b = 0; b < can.size(); b++) {
                ASSERT_EQ(line.members[a].group == line.members[b].group, can[a][b] && can[b][a]);
            }
        }
    }
}

// All starts on a grid: those of the line are each the earliest, and each group's latest start is
// the last that is right with all others as they are.
TEST(RestoreLine, BruteForceStarts) {
    Random random(2);
    for (int round = 0; round < 300; round++) {
        const Cluster cluster = random_cluster(random, 1 + pick(random, 4), 3, 8, 3);
        const RestoreLine line = line_of(cluster.graph, cluster.windows);
        const size_t n = cluster.graph.size();
        const uint64_t grid = line.all_run_us + 1;
        const auto is_right = [&](const Starts &starts) {
            for (size_t member = 0; member < n; member++) {
                const RestoreLine::Group &group = line.groups[line.members[member].group];
                if (starts[member] < group.ready_us ||
                    starts[member] != starts[group.members.front()]) {
                    return false;
                }
            }
            return nobody_speaks_to_who_does_not_run(cluster.graph, starts);
        };
        Starts earliest(n, UINT64_MAX), starts(n, 0);
        uint64_t last = UINT64_MAX; // the least instant at which all can run
        for (bool more = true; more;) {
            if (is_right(starts)) {
                for (size_t member = 0; member < n; member++) {
                    earliest[member] = std::min(earliest[member], starts[member]);
                }
                last = std::min(last, *std::max_element(starts.begin(), starts.end()));
            }
            more = false;
            for (size_t member = 0; member < n && !more; member++) {
                more = ++starts[member] < grid;
                starts[member] = more ? starts[member] : 0;
            }
        }
        ASSERT_EQ(line.starts(), earliest);
        ASSERT_EQ(line.all_run_us, last);

        for (const RestoreLine::Group &group : line.groups) {
            Starts later = line.starts();
            const auto move_to = [&](uint64_t start) {
                for (const uint32_t member : group.members) {
                    later[member] = start;
                }
                return nobody_speaks_to_who_does_not_run(cluster.graph, later);
            };
            const uint64_t bound = 3 * grid + 20;
            uint64_t latest = group.start_us;
            // Words of its own bind others to a start that is later, so they are no bound for it.
            while (latest < bound && move_to(latest + 1)) {
                latest++;
            }
            ASSERT_EQ(latest, std::min(group.latest_us, bound));
        }
    }
}

Starts starts_in_order(const Cluster &cluster, const RestoreLine &line,
                       const std::vector<uint32_t> &order) {
    std::vector<uint64_t> starts(cluster.graph.size());
    uint64_t loaded = 0;
    for (const uint32_t group : order) {
        loaded += line.groups[group].bytes;
        for (const uint32_t member : line.groups[group].members) {
            starts[member] = loaded;
        }
    }
    for (bool moved = true; moved;) { // until nobody has to wait any more
        moved = false;
        for (size_t from = 0; from < starts.size(); from++) {
            uint64_t start = starts[from];
            const auto wait = [&](uint64_t other, uint64_t us) {
                start = std::max(start, other > us ? other - us : 0);
            };
            for (const auto &contact : cluster.graph[from].contacts) {
                wait(starts[contact.to], contact.us);
            }
            for (const uint64_t other : starts) {
                wait(other, cluster.graph[from].until_us);
            }
            for (const uint32_t member : line.groups[line.members[from].group].members) {
                moved |= starts[member] < start;
                starts[member] = std::max(starts[member], start);
            }
        }
    }
    return starts;
}

uint64_t total(const Starts &starts) {
    return std::accumulate(starts.begin(), starts.end(), uint64_t{0});
}

// Against each order of loading. No order that is found quickly is always the best; the mean says
// how near this one comes, and the last is what a restore at one instant would take.
TEST(RestoreLine, BruteForceOrder) {
    Random random(3);
    uint64_t rounds = 0, best_found = 0;
    double excess = 0, worst = 1;
    for (int round = 0; round < 400; round++) {
        const Cluster cluster = random_cluster(random, 2 + pick(random, 4), 30, 60, 2);
        const RestoreLine line = line_of(cluster.graph, cluster.windows);
        std::vector<uint32_t> order(line.groups.size());
        std::iota(order.begin(), order.end(), 0u);
        uint64_t best = UINT64_MAX;
        do {
            best = std::min(best, total(starts_in_order(cluster, line, order)));
        } while (std::next_permutation(order.begin(), order.end()));
        const uint64_t found = total(line.starts());
        ASSERT_GE(found, best);
        ASSERT_LE(found, line.all_run_us * cluster.graph.size());
        if (best > 0) {
            const double ratio = static_cast<double>(found) / static_cast<double>(best);
            rounds++;
            best_found += found == best;
            excess += ratio - 1;
            worst = std::max(worst, ratio);
        }
    }
    RecordProperty("mean_excess_permille", static_cast<int>(excess / double(rounds) * 1000));
    RecordProperty("best_found_percent", static_cast<int>(best_found * 100 / rounds));
    RecordProperty("worst_ratio_permille", static_cast<int>(worst * 1000));
    EXPECT_LT(excess / static_cast<double>(rounds), 0.03);
}

// A simulated restore: each member runs from its start on and says what it said after the cut.
// Returns how many words reached a member that did not run.
size_t words_to_nobody(const ContactGraph &graph, const Starts &starts) {
    struct Event {
        uint64_t us;
        bool word; // after all starts of the same instant
        uint32_t member;
        bool operator<(const Event &o) const {
            return std::pair(us, word) < std::pair(o.us, o.word);
        }
    };
    std::vector<Event> events;
    for (uint32_t member = 0; member < graph.size(); member++) {
        events.push_back({starts[member], false, member});
        for (const auto &contact : graph[member].contacts) {
            events.push_back({starts[member] + contact.us, true, contact.to});
        }
    }
    std::sort(events.begin(), events.end());
    std::vector<bool> runs(graph.size());
    size_t words = 0;
    for (const Event &event : events) {
        if (event.word) {
            words += !runs[event.member];
        } else {
            runs[event.member] = true;
        }
    }
    return words;
}

TEST(RestoreLine, NobodySpeaksToAMemberThatDoesNotRun) {
    Random random(4);
    size_t early = 0;
    for (int round = 0; round < 300; round++) {
        const uint64_t members = 2 + pick(random, 60);
        const Cluster cluster =
            random_cluster(random, members, 1000, 1 + pick(random, 20'000), 1 + pick(random, 4));
        const RestoreLine line = line_of(cluster.graph, cluster.windows);
        const Starts starts = line.starts();
        ASSERT_EQ(find_late_start(cluster.graph, starts), std::nullopt);
        ASSERT_TRUE(nobody_speaks_to_who_does_not_run(cluster.graph, starts));
        ASSERT_EQ(words_to_nobody(cluster.graph, starts), 0u);
        early += std::count_if(starts.begin(), starts.end(),
                               [&](uint64_t start) { return start < line.all_run_us; });
    }
    EXPECT_GT(early, 3000u) << "else a restore at one instant would do as well";
}

// What is loaded when: one group after another at the full rate, its members side by side.
TEST(RestoreLine, WindowsShareTheBandwidth) {
    Random random(5);
    for (int round = 0; round < 300; round++) {
        const Cluster cluster = random_cluster(random, 1 + pick(random, 20), 100'000, 50'000, 3);
        const RestoreLine line = line_of(cluster.graph, cluster.windows);
        uint64_t now = 0;
        for (const RestoreLine::Group &group : line.groups) {
            uint64_t bytes = 0, speed = 0;
            for (const uint32_t member : group.members) {
                const uint64_t window = cluster.windows[member];
                const uint64_t share = line.members[member].bytes_per_second;
                bytes += window;
                speed += share;
                if (window > 0) {
                    // Ready when its group is, but for the rounding of its share.
                    const double takes = double(window) / double(share) * 1e6;
                    EXPECT_NEAR(takes, double(group.ready_us - group.begin_us),
                                takes / double(share) + 2);
                }
            }
            ASSERT_EQ(group.bytes, bytes);
            ASSERT_LE(speed, rate + group.members.size());
            ASSERT_EQ(group.begin_us, now);
            ASSERT_EQ(group.ready_us, now + bytes);
            ASSERT_GE(group.start_us, group.ready_us);
            now = group.ready_us;
        }
        ASSERT_EQ(now, line.all_run_us);
    }
}

// Negative control: in the reverse order members speak to nobody, and the checker sees it.
TEST(RestoreLine, TheReverseLineIsNone) {
    Random random(6);
    size_t wrong = 0;
    for (int round = 0; round < 200; round++) {
        const Cluster cluster = random_cluster(random, 2 + pick(random, 30), 1000, 500, 2);
        const RestoreLine line = line_of(cluster.graph, cluster.windows);
        Starts reverse = line.starts();
        for (uint64_t &start : reverse) {
            start = line.all_run_us - start;
        }
        const bool right = nobody_speaks_to_who_does_not_run(cluster.graph, reverse);
        ASSERT_EQ(find_late_start(cluster.graph, reverse).has_value(), !right);
        if (words_to_nobody(cluster.graph, reverse) > 0) {
            ASSERT_FALSE(right);
            wrong++;
        }
    }
    EXPECT_GT(wrong, 50u);
}

TEST(RestoreLine, TheCheckerNamesTheWorst) {
    const ContactGraph graph = {speaks({{1, 5}, {2, 0}}), speaks({}), speaks({}, 1)};
    EXPECT_EQ(find_late_start(graph, {10, 15, 10}), (LateStart{2, 1, 4}));
    EXPECT_EQ(find_late_start(graph, {10, 15, 14}), (LateStart{0, 2, 4}));
    EXPECT_EQ(find_late_start(graph, {10, 11, 10}), std::nullopt);
    EXPECT_EQ(find_late_start({}, {}), std::nullopt);
}

// Five thousand members, of three kinds: with many contacts, a chain of all, one cycle of all.
TEST(RestoreLine, FiveThousandMembers) {
    constexpr uint32_t members = 5000;
    Random random(7);
    std::vector<Cluster> clusters = {random_cluster(random, members, 100'000'000, 5'000'000, 40),
                                     random_cluster(random, members, 100'000, 800'000'000, 2),
                                     {},
                                     {}};
    for (uint32_t member = 0; member < members; member++) {
        const uint32_t next = member + 1;
        clusters[2].graph.push_back(next < members ? speaks({{next, 0}}) : speaks({}));
        clusters[3].graph.push_back(speaks({{next % members, 0}}));
        clusters[2].windows.push_back(1);
        clusters[3].windows.push_back(1);
    }
    const auto begin = std::chrono::steady_clock::now();
    std::vector<RestoreLine> lines;
    for (const Cluster &cluster : clusters) {
        lines.push_back(line_of(cluster.graph, cluster.windows));
    }
    const auto took = std::chrono::steady_clock::now() - begin;
    RecordProperty(
        "four_lines_ms",
        static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(took).count()));
    size_t contacts = 0;
    for (const Speaker &speaker : clusters[0].graph) {
        contacts += speaker.contacts.size();
    }
    RecordProperty("contacts_of_the_first", static_cast<int>(contacts));
    EXPECT_GT(contacts, 2 * members);
    for (size_t i = 0; i < clusters.size(); i++) {
        EXPECT_EQ(find_late_start(clusters[i].graph, lines[i].starts()), std::nullopt);
        EXPECT_EQ(words_to_nobody(clusters[i].graph, lines[i].starts()), 0u);
    }
    EXPECT_EQ(lines[2].starts().front(), members);
    EXPECT_EQ(lines[2].starts().back(), 1u);
    EXPECT_EQ(lines[3].groups.size(), 1u);
    // Time in proportion to the size; a quadratic way would take minutes.
    EXPECT_LT(took, std::chrono::seconds(20)) << "without optimization, on a busy machine";
}

} // namespace
} // namespace hotsnap::cluster
