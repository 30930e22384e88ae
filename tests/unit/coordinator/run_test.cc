// SPDX-License-Identifier: GPL-2.0-or-later
// A run is an object: the engines serve a third run, defined in this file alone, as they serve a
// snapshot and a restore. It is a roll call in two stages, without disks and without memory.
#include <gtest/gtest.h>

#include "engine_world.h"

namespace hotsnap::cluster {
namespace {

class RollCallInitiator final : public InitiatorRun {
  public:
    explicit RollCallInitiator(InitiatorEngine &engine) : engine_(engine) {}

    std::vector<Stage> stages() override {
        return {{.phase = "call",
                 .answer = answer<Loaded>([this](size_t member, const Loaded &m) {
                     const std::string word = get_string(m.report, "word", "");
                     words_ += engine_.describe(member) + " says " + word + "; ";
                     return word == "nonsense" ? engine_.describe(member) + " talks nonsense" : "";
                 }),
                 .deadline_us = 5'000'000},
                {.phase = "thank",
                 .begin = [this] { engine_.broadcast(Start{engine_.run()}); },
                 .answer = answer<Started>(),
                 .silence_counts = true,
                 .loss = Loss::aborts_unless_answered,
                 .completes = true}};
    }
    Message opening() const override {
        return Restore{engine_.run(), "roll call", 1'000'000, 30'000'000, Json::object()};
    }
    Message closing() const override { return Restored{engine_.run()}; }
    const char *final_phase() const override { return "called"; }
    Json result() const override { return {{"words", words_}}; }

  private:
    InitiatorEngine &engine_;
    std::string words_;
};

class RollCallPeer final : public PeerRun {
  public:
    explicit RollCallPeer(PeerEngine &engine) : engine_(engine) {}

    void begin() override { engine_.work(member::LoadWork{}); }
    bool on_message(const Message &message) override {
        if (step_ == 1 && std::holds_alternative<Start>(message)) {
            step_ = 2;
            engine_.work(member::StartWork{});
            return true;
        }
        if (step_ == 3 && std::holds_alternative<Restored>(message)) {
            engine_.keep("called");
            return true;
        }
        return false;
    }
    bool on_local(const member::LocalEvent &event) override {
        if (const auto *loaded = std::get_if<member::Loaded>(&event); loaded && step_ == 0) {
            step_ = 1;
            engine_.reply(Loaded{engine_.run(), loaded->report});
            return true;
        }
        if (step_ == 2 && std::holds_alternative<member::Started>(event)) {
            step_ = 3;
            engine_.reply(Started{engine_.run(), Json::object()});
            return true;
        }
        return false;
    }
    PeerState state() const override {
        static constexpr PeerState states[] = {{"asked", Alone::aborts, Failing::refuses},
                                               {"heard"},
                                               {"thanked"},
                                               {"glad", Alone::keeps, Failing::tells}};
        return states[step_];
    }
    std::string title() const override { return "a roll call"; }
    uint64_t heartbeat_us() const override { return 1'000'000; }
    uint64_t silence_us() const override { return 30'000'000; }

  private:
    PeerEngine &engine_;
    size_t step_ = 0;
};

constexpr PeerRunKind kinds[] = {
    {[](const Message &message) { return std::holds_alternative<Restore>(message); },
     [](const Message &opening, PeerEngine &engine) -> std::unique_ptr<PeerRun> {
         if (std::get<Restore>(opening).bundle != "roll call") {
             throw BadInput("not a roll call");
         }
         return std::make_unique<RollCallPeer>(engine);
     }}};

class RollCall : public testing::Test {
  protected:
    RollCall() : world(3, kinds) {
        world.lead(Request{}, [](InitiatorEngine &engine) -> std::unique_ptr<InitiatorRun> {
            return std::make_unique<RollCallInitiator>(engine);
        });
    }

    void answer_call() { world.answer_all(member::Loaded{{{"word", "here"}}}); }

    // Each member that was told to undo its part does so; then nothing is left of the run.
    void expect_aborted(const std::string &reason) {
        for (size_t i = 0; i < 3; i++) {
            if (world.count_work<member::AbortWork>(i) > 0) {
                world.answer(i, member::Aborted{});
            }
            EXPECT_FALSE(world.peer(i).busy()) << i;
            EXPECT_EQ(world.count_work<member::CommitWork>(i), 0u) << i;
        }
        EXPECT_TRUE(world.initiator().done());
        EXPECT_TRUE(world.failed);
        EXPECT_EQ(world.finished, reason);
    }

    EngineWorld world;
};

TEST_F(RollCall, Succeeds) {
    world.answer(0, member::Loaded{{{"word", "here"}}});
    world.answer(1, member::Loaded{{{"word", "yes"}}});
    EXPECT_EQ(world.count_work<member::StartWork>(0), 0u); // the barrier
    world.answer(2, member::Loaded{{{"word", "me"}}});
    for (size_t i = 0; i < 3; i++) {
        EXPECT_EQ(world.count_work<member::StartWork>(i), 1u);
    }
    world.answer_all(member::Started{});
    EXPECT_TRUE(world.initiator().done());
    EXPECT_FALSE(world.failed) << world.finished;
    EXPECT_EQ(parse_json(world.finished),
              Json::parse(R"({"words":"member 'm0' says here; member 'm1' says yes; member 'm2' )"
                          R"(says me; "})"));
    EXPECT_EQ(world.phases, (std::vector<std::string>{"call", "thank", "called"}));
    for (size_t i = 0; i < 3; i++) {
        EXPECT_EQ(world.count_work<member::CommitWork>(i), 1u);
        EXPECT_FALSE(world.peer(i).busy());
    }
}

TEST_F(RollCall, LossAborts) {
    world.lose(1);
    expect_aborted("lost member 'm1': connection reset");
    EXPECT_EQ(world.phases, (std::vector<std::string>{"call", "aborting", "aborted"}));
}

TEST_F(RollCall, LossAfterTheAnswerIsAWarning) {
    answer_call();
    world.answer(1, member::Started{});
    world.lose(1);
    EXPECT_EQ(world.peer(1).status()["last"]["phase"], "in-doubt");
    world.answer(0, member::Started{});
    world.answer(2, member::Started{});
    EXPECT_FALSE(world.failed) << world.finished;
    EXPECT_EQ(parse_json(world.finished)["warnings"].size(), 1u);
}

TEST_F(RollCall, LossBeforeTheAnswerAborts) {
    answer_call();
    world.answer(1, member::Started{});
    world.lose(2);
    expect_aborted("lost member 'm2': connection reset");
}

TEST_F(RollCall, Timeout) {
    world.answer(0, member::Loaded{});
    world.answer(2, member::Loaded{});
    world.wait(4'900'000);
    EXPECT_FALSE(world.failed);
    world.wait(200'000);
    expect_aborted("timeout in phase call: no answer from member 'm1' within 5 s");
}

TEST_F(RollCall, SilenceAborts) {
    answer_call();
    const uint64_t before_us = world.now_us;
    while (!world.failed && world.now_us < before_us + 60'000'000) {
        world.now_us += 1'000'000; // no peer is called, so none says anything
        world.initiator().tick(world.now_us);
        if (world.phases.back() == "aborting") {
            break;
        }
    }
    world.run();
    expect_aborted("member 'm1' does not answer: it said nothing for 30 s");
    EXPECT_EQ(world.now_us, before_us + 30'000'000);
}

TEST_F(RollCall, Cancel) {
    world.answer(1, member::Loaded{});
    world.initiator().cancel("no time", world.now_us);
    world.run();
    expect_aborted("cancelled: no time");
}

TEST_F(RollCall, RefusalAndFailure) {
    world.answer(2, member::Failed{"hoarse"});
    expect_aborted("member 'm2' refuses: hoarse");
}

TEST_F(RollCall, AnswerThatIsRefused) {
    world.answer(2, member::Loaded{{{"word", "nonsense"}}});
    expect_aborted("member 'm2' talks nonsense");
}

TEST_F(RollCall, LostInitiator) {
    world.answer(1, member::Loaded{});
    world.lose_initiator();
    for (size_t i = 1; i < 3; i++) {
        ASSERT_EQ(world.count_work<member::AbortWork>(i), 1u);
        EXPECT_EQ(world.peer(i).status()["state"], "aborting");
        world.answer(i, member::Aborted{});
        EXPECT_FALSE(world.peer(i).busy());
    }
}

TEST_F(RollCall, OneRunAtATime) {
    EXPECT_EQ(world.peer(1).occupation(), "a roll call of initiator 'm0' runs here");
    const uint64_t ignored = world.peer(1).ignored_events();
    world.peer(1).on_message(9, "x", Restore{"other", "roll call", 1, 1, Json::object()},
                             world.now_us);
    EXPECT_EQ(world.peer(1).status()["initiator"], "m0");
    world.answer(1, member::Installed{}); // not of this run
    EXPECT_EQ(world.peer(1).ignored_events(), ignored + 1);
}

} // namespace
} // namespace hotsnap::cluster
