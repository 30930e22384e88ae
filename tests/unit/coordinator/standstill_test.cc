// SPDX-License-Identifier: GPL-2.0-or-later
// A run fails when the machine's main loop does not beat any more; the watch belongs to that one
// run.
#include <gtest/gtest.h>

#include "engine_world.h"
#include "runs.h"

namespace hotsnap::cluster {
namespace {

constexpr uint64_t second = 1'000'000;
constexpr hs_link link = 1;

class StandstillTest : public testing::Test {
  protected:
    StandstillTest() : world(2, peer_runs()) {}

    Peer &peer() { return world.peer(1); }
    void message(const Message &m) { peer().on_message(link, "m0", m, world.now_us); }
    void local(const member::LocalEvent &e) { peer().on_local(e, world.now_us); }
    std::string state() { return get_string(peer().status(), "state", "idle"); }
    bool aborts() { return world.count_work<member::AbortWork>(1) > 0; }

    void prepare(const std::string &run) {
        message(Prepare{run, "t1", "/b", true, 3600 * second, second, 3600 * second, {}});
        local(member::Prepared{});
    }
    void arm(const std::string &run, uint64_t epoch) {
        message(Install{run, epoch, {}});
        local(member::Installed{});
        message(Listen{run});
        local(member::Heard{});
        message(Arm{run});
        local(member::Armed{});
    }
    void until_cut(const std::string &run, uint64_t epoch) {
        prepare(run);
        arm(run, epoch);
        message(Snapshot{run});
    }
    void beat_for(unsigned seconds) {
        for (unsigned i = 0; i < seconds; i++) {
            local(member::Beat{});
            world.wait(second);
        }
    }
    std::string reason() {
        for (const member::LocalWork &work : world.take_work(1)) {
            if (const auto *abort = std::get_if<member::AbortWork>(&work)) {
                return abort->reason;
            }
        }
        return "none";
    }

    EngineWorld world;
};

TEST_F(StandstillTest, ThirtySecondsWithoutABeatFailTheRun) {
    until_cut("r1", 1);
    local(member::Cut{});
    beat_for(50);
    EXPECT_EQ(state(), "cut");
    world.wait(29 * second);
    EXPECT_EQ(state(), "cut");
    world.wait(second);
    EXPECT_EQ(state(), "aborting");
    EXPECT_EQ(reason(),
              "The VM stood still for 30 s; check the storage of the bundle and of the disks");
}

TEST_F(StandstillTest, ALongPauseIsNone) {
    prepare("r1");
    beat_for(1);
    arm("r1", 1);
    beat_for(1);
    world.wait(100 * second);
    EXPECT_EQ(state(), "armed");
    local(member::Cut{});
    beat_for(1);
    EXPECT_EQ(state(), "cut");
    world.wait(31 * second);
    EXPECT_EQ(state(), "aborting") << "the watch goes on after it";
}

TEST_F(StandstillTest, WhilePreparing) {
    prepare("r1");
    beat_for(1);
    world.wait(31 * second);
    EXPECT_TRUE(aborts());
}

TEST_F(StandstillTest, AMachineThatNeverBeatsIsNotWatched) {
    until_cut("r1", 1);
    local(member::Cut{});
    world.wait(600 * second);
    EXPECT_EQ(state(), "cut");
}

// As for a process that was stopped, or a host that was suspended.
TEST_F(StandstillTest, SecondsAreCounted) {
    until_cut("r1", 1);
    local(member::Cut{});
    beat_for(1);
    for (int i = 0; i < 29; i++) {
        world.now_us += 1000 * second;
        world.tick();
        message(Heartbeat{"r1"});
    }
    EXPECT_EQ(state(), "cut");
    world.now_us += second;
    world.tick();
    EXPECT_EQ(state(), "aborting");
}

TEST_F(StandstillTest, NotOnceThePartIsComplete) {
    until_cut("r1", 1);
    beat_for(1);
    local(member::Cut{});
    local(member::FullFin{});
    local(member::Beat{}); // a late beat begins no new watch
    world.wait(600 * second);
    EXPECT_EQ(state(), "cut");
}

// ABORT comes during the pause, so the cut is reported after ABORT. Neither that report nor the
// beats of this run may fail the next run.
TEST_F(StandstillTest, NothingSurvivesTheRun) {
    until_cut("r1", 1);
    beat_for(3);
    message(Abort{"r1", "cancelled"});
    local(member::Cut{});
    local(member::Beat{});
    local(member::Aborted{});
    EXPECT_EQ(state(), "idle");
    world.take_work(1);

    until_cut("r2", 2);
    local(member::Cut{});
    world.wait(600 * second);
    EXPECT_EQ(state(), "cut");
    EXPECT_FALSE(aborts());
}

TEST_F(StandstillTest, NoTimerIsLeftBehind) {
    until_cut("r1", 1);
    beat_for(3);
    message(Abort{"r1", "cancelled"});
    peer().on_link_down(link, "connection reset", world.now_us);
    EXPECT_EQ(peer().deadline(), never);
    local(member::Aborted{});
    EXPECT_EQ(peer().deadline(), never);
    local(member::Beat{}); // from a main loop that does not know yet
    EXPECT_EQ(peer().deadline(), never);
}

} // namespace
} // namespace hotsnap::cluster
