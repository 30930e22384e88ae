// SPDX-License-Identifier: GPL-2.0-or-later
#include <charconv>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>

#include "cluster.h"
#include "invariants/invariants.h"

using namespace hotsnap::sim;

namespace {

constexpr const char *usage =
    R"(usage: simulation [options]

Runs the real coordinator, local run and mediator of simulated clusters and checks invariants. The same seed
gives the same run.

  --seed N       first seed (default 1)
  --runs N       how many seeds (default 1)
  --members N    members of the cluster (default: 2 to 8, by the seed)
  --steps N      commands given to the cluster (default: 3 to 8, by the seed)
  --rate N       frames per millisecond in the whole cluster (default 20)
  --no-faults    no crashes, broken links, failures, cancels
  --mutate WHAT  a deliberate mistake, a negative control: coloring-off, skip-hold,
                 broadcast-through, lose-record, lose-held, reverse-held, keep-color,
                 abort-in-doubt, mute-abort, move-record, hasty-answer, deaf-copy,
                 foreign-clock, deaf-hold, late-switch
  --expect INV   succeed, and end, as soon as a seed violates this invariant (with --mutate)
  --coverage     fail if some fault met no member in some state of its local life
  --trace        print what happens
  --help
)";

const std::map<std::string, Mutation> mutations = {
    {"coloring-off", Mutation::coloring_off},
    {"skip-hold", Mutation::skip_hold},
    {"broadcast-through", Mutation::broadcast_through},
    {"lose-record", Mutation::lose_record},
    {"lose-held", Mutation::lose_held},
    {"reverse-held", Mutation::reverse_held},
    {"keep-color", Mutation::keep_color},
    {"abort-in-doubt", Mutation::abort_in_doubt},
    {"mute-abort", Mutation::mute_abort},
    {"move-record", Mutation::move_record},
    {"hasty-answer", Mutation::hasty_answer},
    {"deaf-copy", Mutation::deaf_copy},
    {"foreign-clock", Mutation::foreign_clock},
    {"deaf-hold", Mutation::deaf_hold},
    {"late-switch", Mutation::late_switch},
};

const std::map<std::string, Violations (*)(const Config &, const Ledger &)> invariants = {
    {"no_orphans", no_orphans}, {"channel_exact", channel_exact}, {"delivery", delivery},
    {"agreement", agreement},   {"liveness", liveness},           {"one_at_a_time", one_at_a_time},
    {"one_finish", one_finish}, {"one_instant", one_instant},
};

struct Totals {
    size_t commands = 0, failed = 0, published = 0, restored = 0, in_doubt = 0, segments = 0;
    size_t recorded = 0, lost = 0, timed = 0, delayed = 0, barriers = 0;
    Coverage coverage;

    void add(const Ledger &ledger) {
        commands += ledger.commands;
        failed += ledger.finished_failed;
        segments += ledger.segments.size();
        coverage.add(ledger.coverage);
        for (const auto &[name, run] : ledger.runs) {
            published += run.published;
            barriers += run.published && run.barrier;
            restored += run.restore && !run.committed.empty();
            in_doubt += run.in_doubt.size();
            for (const auto &[member, record] : run.recorded) {
                recorded += run.published ? record.size() : 0;
            }
            lost += run.declared_lost;
            timed += run.finish_us != 0;
            delayed += run.delay_us != 0;
        }
    }
};

uint64_t number(const char *text) {
    uint64_t value = 0;
    const char *end = text + std::strlen(text);
    const auto [at, error] = std::from_chars(text, end, value);
    if (error != std::errc() || at != end) {
        std::fprintf(stderr, "'%s' is not a number\n%s", text, usage);
        std::exit(2);
    }
    return value;
}

} // namespace

int main(int argc, char **argv) {
    Config config;
    uint64_t runs = 1;
    bool whole = false;
    std::string mutate = "none", expect;
    std::string again; // the options that reproduce a seed
    for (int i = 1; i < argc; i++) {
        const std::string option = argv[i];
        const int at = i;
        const auto value = [&]() -> const char * {
            if (i + 1 == argc) {
                std::fprintf(stderr, "%s needs a value\n%s", option.c_str(), usage);
                std::exit(2);
            }
            return argv[++i];
        };
        if (option == "--help") {
            std::fputs(usage, stdout);
            return 0;
        } else if (option == "--seed") {
            config.seed = number(value());
        } else if (option == "--runs") {
            runs = number(value());
        } else if (option == "--members") {
            config.members = number(value());
        } else if (option == "--steps") {
            config.commands = number(value());
        } else if (option == "--rate") {
            config.frames_per_ms = std::max<uint64_t>(number(value()), 1);
        } else if (option == "--no-faults") {
            config.faults = false;
        } else if (option == "--coverage") {
            whole = true;
        } else if (option == "--trace") {
            config.trace = true;
        } else if (option == "--mutate" && mutations.contains(mutate = value())) {
            config.mutation = mutations.at(mutate);
        } else if (option == "--expect" && invariants.contains(expect = value())) {
        } else {
            std::fprintf(stderr, "bad option %s\n%s", option.c_str(), usage);
            return 2;
        }
        for (int j = at; j <= i && option != "--seed" && option != "--runs"; j++) {
            again += std::string(" ") + argv[j];
        }
    }

    Totals totals;
    size_t bad_seeds = 0;
    bool expected_seen = false;
    const uint64_t first = config.seed;
    for (; config.seed < first + runs && !expected_seen; config.seed++) {
        Cluster cluster(config);
        cluster.run();
        totals.add(cluster.ledger());
        bool bad = false;
        for (const auto &[name, check] : invariants) {
            const Violations violations = check(cluster.config(), cluster.ledger());
            expected_seen |= name == expect && !violations.empty();
            bad |= !violations.empty();
            for (size_t i = 0; i < violations.size() && i < 5 && expect.empty(); i++) {
                std::printf("seed %llu: %s\n", static_cast<unsigned long long>(config.seed),
                            violations[i].c_str());
            }
        }
        bad_seeds += bad;
        if (bad && expect.empty()) {
            std::printf("seed %llu FAILED; again with: --seed %llu%s --trace\n",
                        static_cast<unsigned long long>(config.seed),
                        static_cast<unsigned long long>(config.seed), again.c_str());
        }
    }
    std::printf("%llu seeds from %llu: %zu commands, %zu published, %zu restored, %zu failed, "
                "%zu members in doubt, %zu segments, %zu recorded, %zu declared lost, "
                "%zu with a common end, %zu of them delayed, %zu behind a barrier; "
                "%zu seeds with violations\n",
                static_cast<unsigned long long>(config.seed - first),
                static_cast<unsigned long long>(first), totals.commands, totals.published,
                totals.restored, totals.failed, totals.in_doubt, totals.segments, totals.recorded,
                totals.lost, totals.timed, totals.delayed, totals.barriers, bad_seeds);
    if (!expect.empty()) {
        std::printf("%s: invariant %s %s\n", mutate.c_str(), expect.c_str(),
                    expected_seen ? "noticed the mistake" : "DID NOT notice the mistake");
        return expected_seen ? 0 : 1;
    }
    totals.coverage.print();
    const std::vector<std::string> gaps = totals.coverage.gaps();
    for (size_t i = 0; whole && i < gaps.size(); i++) {
        std::printf("%s\n", gaps[i].c_str());
    }
    if (whole && !gaps.empty()) {
        return 1;
    }
    if (totals.published == 0) {
        std::printf("nothing was published: this run proves nothing\n");
        return 1;
    }
    return bad_seeds == 0 ? 0 : 1;
}
