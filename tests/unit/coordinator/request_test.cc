// SPDX-License-Identifier: GPL-2.0-or-later
#include <gtest/gtest.h>

#include "wire/request.h"

namespace hotsnap::cluster {
namespace {

Json base() {
    return {{"tag", "t1"},
            {"directory", "/b"},
            {"members",
             {{{"name", "a"}, {"address", "unix:a"}}, {{"name", "b"}, {"address", "unix:b"}}}}};
}

std::string refusal(const Json &json) {
    try {
        Request::parse(Request::Kind::snapshot, "a", json);
    } catch (const BadInput &e) {
        return e.what();
    }
    return "";
}

TEST(RequestTest, DefaultsAsDocumented) {
    const Request r = Request::parse(Request::Kind::snapshot, "a", base());
    EXPECT_EQ(r.tag, "t1");
    EXPECT_EQ(r.members.size(), 2u);
    EXPECT_EQ(r.self, 0u);
    EXPECT_EQ(r.content, Request::Content::all);
    EXPECT_TRUE(r.coloring);
    EXPECT_EQ(r.prepare_timeout_us, 60'000'000u);
    EXPECT_EQ(r.arm_timeout_us, 30'000'000u);
    EXPECT_EQ(r.cut_timeout_us, 10'000'000u);
    EXPECT_EQ(r.abort_timeout_us, 10'000'000u);
    EXPECT_EQ(r.full_timeout_us, 0u);
    EXPECT_EQ(r.load_timeout_us, 0u);
    EXPECT_EQ(r.start_timeout_us, 30'000'000u);
    EXPECT_EQ(r.drain_us, 200'000u);
    EXPECT_EQ(r.settle_us, 10'000u);
    EXPECT_EQ(r.heartbeat_us, 1'000'000u);
    EXPECT_EQ(r.silence_us, 30'000'000u);
}

TEST(RequestTest, TheInitiatorIsAMemberAnyway) {
    const Request in = Request::parse(Request::Kind::snapshot, "b", base());
    EXPECT_EQ(in.self, 1u);
    EXPECT_EQ(in.members.size(), 2u);
    const Request added = Request::parse(Request::Kind::snapshot, "x", base());
    EXPECT_EQ(added.members.size(), 3u);
    EXPECT_EQ(added.members[added.self].name, "x");
    Json alone = base();
    alone["members"] = Json::array();
    EXPECT_EQ(Request::parse(Request::Kind::snapshot, "x", alone).members.size(), 1u);
}

TEST(RequestTest, Content) {
    Json json = base();
    json["content"] = "disks";
    EXPECT_EQ(Request::parse(Request::Kind::snapshot, "a", json).content, Request::Content::disks);
    json["content"] = "memory";
    EXPECT_NE(refusal(json).find("'all' or 'disks'"), std::string::npos);
}

TEST(RequestTest, Mode) {
    Json json = base();
    EXPECT_EQ(Request::parse(Request::Kind::snapshot, "a", json).mode, Request::Mode::hot);
    for (const auto mode :
         {Request::Mode::hot, Request::Mode::precopy, Request::Mode::stop_and_copy}) {
        json["mode"] = to_string(mode);
        EXPECT_EQ(Request::parse(Request::Kind::snapshot, "a", json).mode, mode);
        json["duration_us"] = 1'000'000;
        EXPECT_EQ(refusal(json).empty(), mode == Request::Mode::hot);
        json.erase("duration_us");
    }
    json["mode"] = "cold";
    EXPECT_NE(refusal(json).find("'hot', 'precopy' or 'stop-and-copy'"), std::string::npos);
}

TEST(RequestTest, RefusesWithAReason) {
    const auto with = [](const char *key, Json value) {
        Json json = base();
        json[key] = std::move(value);
        return refusal(json);
    };
    EXPECT_EQ(refusal(base()), "");
    for (const char *tag : {"", ".", "..", "a/b", "a b"}) {
        EXPECT_NE(with("tag", tag), "") << tag;
    }
    EXPECT_NE(with("directory", ""), "");
    EXPECT_NE(with("directory", "bundles"), "");
    EXPECT_NE(with("members", {{{"name", ".."}, {"address", "x"}}}), "");
    EXPECT_NE(with("drain_us", "soon"), "");
    EXPECT_NE(with("drain_us", UINT64_MAX), "");
    EXPECT_NE(with("heartbeat_us", 0), "");
    EXPECT_NE(with("silence_timeout_us", 1'000'000), ""); // not longer than two heartbeats
    EXPECT_NE(with("members", "a,b"), "");
    EXPECT_NE(with("members", {{{"name", "b"}}}), ""); // no address
    EXPECT_NE(
        with("members", {{{"name", "b"}, {"address", "x"}}, {{"name", "c"}, {"address", "x"}}}),
        "");
    EXPECT_NE(with("options", 7), "");
    EXPECT_NE(with("coloring", "yes"), "");
    EXPECT_NE(refusal(Json::array()), "");
}

} // namespace
} // namespace hotsnap::cluster
