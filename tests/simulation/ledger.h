// SPDX-License-Identifier: GPL-2.0-or-later
// The truth: the real fate of every segment and the real course of every run, written by the
// simulated world, never by the code under test. Invariants read it.
#ifndef HOTSNAP_SIM_LEDGER_H
#define HOTSNAP_SIM_LEDGER_H

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "coverage.h"

namespace hotsnap::sim {

// A member as a process: a member that is started again after a crash is another incarnation.
using Incarnation = uint32_t;

struct Delivery {
    Incarnation to;
    size_t nic;
    uint64_t sequence; // number of this event in the life of the guest
};

// One hop: what a member forwards is another segment.
struct Segment {
    Incarnation from;
    std::string to; // the member that the hop leads to; empty: a group, or nobody knows
    uint64_t sent_sequence;
    uint64_t source_mac;
    uint64_t destination_mac;
    std::string run;          // of the sender at that time, if any
    uint64_t white_epoch = 0; // epoch in which the sender was between start of coloring and cut
    std::vector<Delivery> deliveries;
    bool excused = false; // lost by the network, or its receiver crashed or was started later
};

struct Cut {
    uint64_t sequence; // events of the guest with smaller numbers happened before the cut
};

struct Write {
    Incarnation by;
    uint64_t number; // all writes of the world are numbered: each may be the effect of any before
};

struct Copied {
    uint64_t at_us;
    bool on_time; // not later than it was told to
};

struct Run {
    std::string name;
    std::string initiator;
    bool restore = false;
    uint64_t epoch = 0;
    std::map<std::string, Incarnation> members; // those that the run has reached so far
    std::map<Incarnation, Cut> cuts;
    bool barrier = false;
    std::map<Incarnation, uint64_t> switches; // number of the last write before each
    // Segments in the channel record, and the NIC each came on.
    std::map<Incarnation, std::vector<std::pair<uint64_t, size_t>>> recorded;
    std::map<Incarnation, std::set<uint64_t>> held_back; // recorded on their way out
    uint64_t declared_lost = 0;                          // by all members
    uint64_t lost_between = 0;                           // of these, by comparison of all
    uint64_t unmarked = 0;                               // paths that may hide a loss
    bool forged = false;                                 // a forged frame forced the first cut
    std::set<Incarnation> complete;                      // whose parts are durable (FullFin)
    std::set<Incarnation> committed;                     // that were told to commit
    std::set<Incarnation> in_doubt;
    std::set<Incarnation> aborted;
    std::set<Incarnation> loaded;
    std::set<Incarnation> started;
    std::map<Incarnation, Copied> copied;
    uint64_t finish_us = 0; // the instant at which all copies were to end; 0: none
    uint64_t duration_us = 0;
    uint64_t delay_us = 0; // by which the instant was moved
    std::map<Incarnation, uint64_t> clock_error_us;
    bool published = false;
    std::vector<std::string> named; // members in the manifest
};

struct Ledger {
    std::vector<Segment> segments; // by number
    std::map<std::string, Run> runs;
    std::vector<Write> writes;               // in their order
    std::vector<std::string> still_held;     // members that held longer than they might
    std::vector<std::string> violations;     // found during the simulation, "invariant: what"
    std::vector<std::string> moved;          // members whose record changed while it was written
    std::set<std::string> durations_changed; // runs to which the user gave another duration
    std::vector<std::string> overlaps;       // steps that began while another was under way
    Coverage coverage;
    size_t commands = 0; // accepted by a coordinator
    size_t finished = 0; // HS_SAY_FINISHED
    size_t finished_failed = 0;
    size_t initiators_crashed = 0;     // while their command was on
    std::vector<std::string> not_idle; // at the very end
};

} // namespace hotsnap::sim
#endif
