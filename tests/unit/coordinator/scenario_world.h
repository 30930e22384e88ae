// SPDX-License-Identifier: GPL-2.0-or-later
// A small cluster for scenario scripts: real coordinators (through the C interface), links that
// keep order, and local work that is answered at once unless the script holds it. Everything
// happens in one queue, first in, first out, so that a script always tells the same story.
#ifndef HOTSNAP_SCENARIO_WORLD_H
#define HOTSNAP_SCENARIO_WORLD_H

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/json.h"
#include "hotsnap/coordinator.h"
#include "work_json.h"

namespace hotsnap::scenario {

class World {
  public:
    // Runs one command, "name arguments...", and returns its output, line by line.
    std::string execute(const std::string &command);

  private:
    struct Node {
        struct Deleter {
            void operator()(hs_coordinator *c) const { hs_coordinator_free(c); }
        };
        explicit Node(const std::string &name) : work_text(name) {}

        std::unique_ptr<hs_coordinator, Deleter> coordinator;
        member::WorkText work_text;
        std::string mac;
        uint64_t timer_us = UINT64_MAX;
        bool has_cut = false;
    };
    struct Link {
        std::string from, to; // the member that connected, and the other one
    };
    struct Event {
        enum class Kind { connect, message, answer, down } kind;
        std::string from, to; // connect, message
        hs_link link = 0;
        std::string data;        // bytes, address, JSON, reason
        std::string answer = {}; // event of the machine
    };
    using Words = std::vector<std::string>;

    void add_member(const std::string &name);
    void initiate(const Words &words, bool restore);
    void run(const std::string &until);
    void advance(uint64_t us, const std::string &until);
    void cut_link(const std::string &a, const std::string &b, const std::string &reason);
    void crash(const std::string &name);

    void link_at(const std::string &end, const std::string &other, hs_link id, const char *address);
    void deliver(const Event &event);
    void drain(const std::string &name); // takes the actions of a member
    void act(const std::string &name, const hs_action &action);
    void work(const std::string &name, const member::LocalWork &work);
    void do_local(const std::string &name, const std::string &work);
    void answer(const std::string &name, const std::string &event, const Json &json);
    void local(const std::string &name, const std::string &event, const std::string &json);
    void log(const std::string &line);
    Node &node(const std::string &name);

    std::map<std::string, Node> nodes_;
    std::map<std::string, size_t> macs_; // outlive a crash
    std::map<hs_link, Link> links_;      // each end has the same number
    std::deque<Event> events_;
    std::deque<Event> held_connects_;
    std::set<std::pair<std::string, std::string>> held_; // member, "CUT" or "FULL", "connect", ..
    std::set<std::string> frozen_;                       // members that do nothing at all
    std::map<std::string, std::vector<std::string>> certificates_; // member, its names
    std::map<std::string, std::string> distrust_;                  // member, why it trusts nobody
    hs_link next_link_ = 1;
    uint64_t now_us_ = 1'000'000;
    std::string output_;
    std::string until_;
    bool stopped_ = false;
};

} // namespace hotsnap::scenario
#endif
