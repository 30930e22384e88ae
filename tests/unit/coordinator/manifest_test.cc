// SPDX-License-Identifier: GPL-2.0-or-later
#include <gtest/gtest.h>

#include "wire/manifest.h"

namespace hotsnap::cluster {
namespace {

struct Epoch {
    Request request;
    RunRecord record;
    RunLog log;

    explicit Epoch(size_t members) {
        request.tag = "t1";
        record.epoch = 7;
        log.timeline = {{"prepare", 10}, {"snapshot", 20}};
        for (size_t i = 0; i < members; i++) {
            const std::string name = "m" + std::to_string(i);
            request.members.push_back({name, "unix:" + name});
            MemberRecord member;
            member.prepared.info = {{"boot_id", "x"}, {"qemu", "10.0"}};
            member.prepared.nics = {{"net0", Mac(0x525400000001), {Mac(0x525400000002)}, false}};
            member.cut.pause = {{"begin_ns", 1'000'000 + 100'000 * i},
                                {"end_ns", 3'000'000 + 200'000 * i}};
            member.cut.cause = "snapshot";
            member.cut.white_sent = {{{Mac(1), Mac(2)}, 5}};
            member.channels = {"r", 3, 1, 0, {}};
            member.report = {{"memory", {{"file", name + "/state"}}},
                             {"channel", {{"file", name + "/channel.pcap"}}}};
            record.members.push_back(std::move(member));
        }
    }
    Json manifest() const { return snapshot_manifest(request, record, log); }
};

TEST(ManifestTest, HoldsAll) {
    const Json json = Epoch(3).manifest();
    EXPECT_EQ(json["format"], "hotsnap-bundle");
    EXPECT_EQ(json["version"], 1);
    EXPECT_FALSE(json.contains("content"));
    EXPECT_EQ(json["mode"], "hot");
    EXPECT_EQ(json["tag"], "t1");
    EXPECT_EQ(json["epoch"], 7);
    EXPECT_EQ(json["initiator"], "m0");
    EXPECT_EQ(json["timeline"],
              Json::parse(R"([{"phase":"prepare","us":10},{"phase":"snapshot","us":20}])"));
    ASSERT_EQ(json["members"].size(), 3u);
    EXPECT_EQ(json["members"][1], Json::parse(R"({
        "name":"m1","address":"unix:m1","boot_id":"x","qemu":"10.0",
        "nics":[{"nic":"net0","mac":"52:54:00:00:00:01","sources":["52:54:00:00:00:02"],
                 "complete":false}],
        "pause":{"begin_ns":1100000,"end_ns":3200000},"cause":"snapshot",
        "memory":{"file":"m1/state"},
        "channel":{"file":"m1/channel.pcap","frames":3,"lost":1}})"));
    EXPECT_EQ(json["cut"]["recorded"], 9);
    EXPECT_EQ(json["cut"]["lost"], 3);
    EXPECT_EQ(json["cut"]["lost_between"], 0);
    EXPECT_EQ(json["cut"]["white_sent"], 15);
    EXPECT_EQ(json["cut"]["coloring"], true);
}

// No VM was paused, and a reader of version 1 must not look for its memory.
TEST(ManifestTest, DisksOnly) {
    Epoch epoch(3);
    epoch.request.content = Request::Content::disks;
    for (MemberRecord &member : epoch.record.members) {
        member.report = {{"disks", Json::array()}};
    }
    const Json json = epoch.manifest();
    EXPECT_EQ(json["version"], 2);
    EXPECT_EQ(json["content"], "disks");
    EXPECT_EQ(json["members"][1], Json::parse(R"({
        "name":"m1","address":"unix:m1","boot_id":"x","qemu":"10.0",
        "nics":[{"nic":"net0","mac":"52:54:00:00:00:01","sources":["52:54:00:00:00:02"],
                 "complete":false}],
        "hold":{"begin_ns":1100000,"end_ns":3200000},"cause":"snapshot","disks":[],
        "channel":{"frames":3,"lost":1}})"));
    EXPECT_EQ(json["cut"]["downtime_max_us"], 0);
    EXPECT_EQ(json["cut"]["hold_max_us"], 2200);
    EXPECT_EQ(json["cut"]["backoff_max_us"], nullptr);
    EXPECT_EQ(json["cut"]["pairs"], Json::array());
}

TEST(ManifestTest, WhatNoMemberGotIsLostToo) {
    Epoch epoch(3);
    epoch.record.lost_between = 4;
    const Json json = epoch.manifest();
    EXPECT_EQ(json["cut"]["lost"], 7);
    EXPECT_EQ(json["cut"]["lost_between"], 4);
    EXPECT_EQ(json["members"][1]["channel"]["lost"], 1);
}

// From the first suspend to the last resume of a pair.
TEST(ManifestTest, Backoff) {
    const Json cut = Epoch(3).manifest()["cut"];
    EXPECT_EQ(cut["comparable"], true);
    EXPECT_EQ(cut["backoff_max_us"], 2400);
    EXPECT_EQ(cut["downtime_max_us"], 2200);
    EXPECT_EQ(cut["pairs"], Json::parse(R"([{"a":"m0","b":"m1","us":2200},
        {"a":"m0","b":"m2","us":2400},{"a":"m1","b":"m2","us":2300}])"));
}

TEST(ManifestTest, ClocksOfDifferentHostsAreNotCompared) {
    Epoch epoch(2);
    epoch.record.members[1].prepared.info["boot_id"] = "y";
    Json cut = epoch.manifest()["cut"];
    EXPECT_EQ(cut["comparable"], false);
    EXPECT_TRUE(cut["backoff_max_us"].is_null());
    EXPECT_EQ(cut["downtime_max_us"], 2100);
    epoch.record.members[1].prepared.info.erase("boot_id");
    EXPECT_EQ(epoch.manifest()["cut"]["comparable"], false);
}

TEST(ManifestTest, AMemberThatSaysNonsenseDoesNotBreakIt) {
    Epoch epoch(2);
    epoch.record.members[0].cut.pause = {{"begin_ns", "x"}, {"end_ns", -1}};
    epoch.record.members[1].cut.pause = {{"begin_ns", 5}, {"end_ns", 1}};
    epoch.record.members[1].prepared.info["boot_id"] = 7;
    epoch.record.members[1].report = {{"name", "evil"}, {"channel", nullptr}};
    const Json json = epoch.manifest();
    EXPECT_EQ(json["members"][1]["name"], "m1");
    EXPECT_EQ(json["cut"]["downtime_max_us"], 0);
}

// A member that stands until its memory is copied tells the whole pause at the end.
TEST(ManifestTest, APauseThatEndsLaterIsInTheReport) {
    Epoch epoch(2);
    epoch.request.mode = Request::Mode::stop_and_copy;
    epoch.record.members[1].report["pause"] = {{"begin_ns", 1'100'000}, {"end_ns", 9'000'000}};
    Json json = epoch.manifest();
    EXPECT_EQ(json["mode"], "stop-and-copy");
    EXPECT_EQ(json["members"][1]["pause"]["end_ns"], 9'000'000);
    EXPECT_EQ(json["cut"]["downtime_max_us"], 7900);
    EXPECT_EQ(json["cut"]["backoff_max_us"], 8000);
    epoch.record.members[1].report["pause"] = 7;
    EXPECT_EQ(epoch.manifest()["cut"]["downtime_max_us"], 2000);
}

TEST(ManifestTest, ManyMembersAreNotListedByPair) {
    const Json cut = Epoch(200).manifest()["cut"];
    EXPECT_EQ(cut["pairs"].size(), 0u);
    EXPECT_EQ(cut["backoff_max_us"], 2000 + 200 * 199);
}

TEST(ManifestTest, RestoreResult) {
    Epoch epoch(2);
    epoch.request.bundle = "/b/t1";
    epoch.record.members[0].report = {{"played", 3}};
    const Json json = restore_result(epoch.request, epoch.record, epoch.log);
    EXPECT_EQ(json["bundle"], "/b/t1");
    EXPECT_EQ(json["members"][0]["played"], 3);
    EXPECT_EQ(json["members"][0]["name"], "m0");
}

} // namespace
} // namespace hotsnap::cluster
