// SPDX-License-Identifier: GPL-2.0-or-later
// Contacts of a manifest: hints, which may say anything.
#include <fstream>
#include <sstream>

#include <gtest/gtest.h>

#include "contact_graph.h"

namespace hotsnap::cluster {
namespace {

const std::vector<std::string> members = {"a", "b", "c"};

ContactGraph graph_of(const char *manifest) {
    return contact_graph(parse_json(manifest), members);
}

// The manifest's entry of "a" with these contacts.
ContactGraph with(const std::string &contacts) {
    return graph_of(
        (R"({"members":[{"name":"a","channel":{"frames":0,"contacts":)" + contacts + "}}]}")
            .c_str());
}

TEST(ContactGraph, AsWritten) {
    const ContactGraph graph = graph_of(R"({"members":[
        {"name":"c","channel":{"contacts":{"until_us":70,"first_us":{"a":5,"b":0}}}},
        {"name":"a","channel":{"contacts":{"until_us":50,"first_us":{}}}},
        {"name":"stranger","channel":{"contacts":{"until_us":50,"first_us":{"a":1}}}}]})");
    EXPECT_EQ(graph, (ContactGraph{{50, {}}, {}, {70, {{0, 5}, {1, 0}}}}));
}

TEST(ContactGraph, AMemberThatIsNotRestoredBindsNobody) {
    EXPECT_EQ(with(R"({"until_us":50,"first_us":{"z":1,"c":2}})")[0], (Speaker{50, {{2, 2}}}));
}

TEST(ContactGraph, WhatIsNotAsDescribedIsNotKnown) {
    for (const char *contacts :
         {"null", "[]", "{}", R"({"until_us":50})", R"({"first_us":{}})",
          R"({"until_us":-1,"first_us":{}})", R"({"until_us":1e3,"first_us":{}})",
          R"({"until_us":"50","first_us":{}})", R"({"until_us":50,"first_us":[]})",
          R"({"until_us":50,"first_us":{"b":-1}})", R"({"until_us":50,"first_us":{"b":50}})",
          R"({"until_us":50,"first_us":{"b":1.5}})", R"({"until_us":50,"first_us":{"z":null}})",
          R"({"until_us":18446744073709551615,"first_us":{"b":1}})"}) {
        EXPECT_EQ(with(contacts), ContactGraph(3)) << contacts;
    }
    for (const char *manifest :
         {"{}", "[]", "7", R"({"members":7})", R"({"members":{"a":[]}})", R"({"members":[7,[]]})",
          R"({"members":[{"name":"a"},{"name":7},{"name":"a","channel":[]}]})"}) {
        EXPECT_EQ(graph_of(manifest), ContactGraph(3)) << manifest;
    }
}

// The cases that the operator's command draws the same line for (test_restore_line.py).
TEST(ContactGraph, LinesOfTheFile) {
    std::ostringstream text;
    text << std::ifstream(HOTSNAP_RESTORE_LINES).rdbuf();
    const Json cases = parse_json(text.str());
    ASSERT_GE(cases.size(), 8u);
    for (const Json &each : cases) {
        std::vector<std::string> names;
        for (const Json &member : each["members"]) {
            names.push_back(member["name"]);
        }
        const RestoreLine line =
            restore_line(contact_graph(each, names), each["windows"], each["bytes_per_second"]);
        Json groups = Json::array();
        for (const RestoreLine::Group &group : line.groups) {
            groups.push_back({{"members", group.members},
                              {"begin_us", group.begin_us},
                              {"ready_us", group.ready_us},
                              {"start_us", group.start_us},
                              {"latest_us", nullptr}});
            if (group.latest_us != RestoreLine::whenever) {
                groups.back()["latest_us"] = group.latest_us;
            }
        }
        EXPECT_EQ(groups, each["groups"]) << each["case"];
    }
}

} // namespace
} // namespace hotsnap::cluster
