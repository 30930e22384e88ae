// SPDX-License-Identifier: GPL-2.0-or-later
// hotsnap/member.h: the contents of its steps, ownership, and the handling of bad input.
#include <memory>

#include <gtest/gtest.h>

#include "machine.h"
#include "member/handles.h"

namespace hotsnap::member {
namespace {

class MemberCApi : public testing::Test {
  protected:
    MemberCApi() {
        const uint8_t mac[6] = {0x52, 0x54, 0, 0, 0, 0x0b};
        hs_mediator_add_nic(mediator.get(), "net0", mac, 0, 1);
        member.reset(hs_member_new("b", mediator.get(), "boot-1", nullptr));
    }

    void work(LocalWork work) { hs_member_work(member.get(), new hs_work{std::move(work)}); }
    hs_step next(hs_step_kind kind) {
        hs_step step{};
        EXPECT_TRUE(hs_member_next_step(member.get(), &step));
        EXPECT_EQ(step.kind, kind);
        return step;
    }
    template <typename Event> Event event() {
        const hs_step step = next(HS_STEP_EVENT);
        const std::unique_ptr<hs_event, void (*)(hs_event *)> owned(step.u.event, hs_event_free);
        return std::get<Event>(owned->event);
    }
    void task(hs_task task) {
        EXPECT_EQ(next(HS_STEP_TASK).u.task, task);
        hs_member_task_done(member.get(), task, nullptr);
    }
    bool nothing() {
        hs_step step;
        return !hs_member_next_step(member.get(), &step);
    }

    std::unique_ptr<hs_mediator, void (*)(hs_mediator *)> mediator{hs_mediator_new(),
                                                                   hs_mediator_free};
    std::unique_ptr<hs_member, void (*)(hs_member *)> member{nullptr, hs_member_free};
};

TEST_F(MemberCApi, ASnapshotFromBeginToManifest) {
    PrepareWork prepare = prepare_work();
    prepare.options["engine"] = "kvm";
    work(prepare);
    const hs_step begin = next(HS_STEP_BEGIN_SNAPSHOT);
    EXPECT_STREQ(begin.u.begin_snapshot.tag, "t");
    EXPECT_STREQ(begin.u.begin_snapshot.options_json, "{\"engine\":\"kvm\"}");
    EXPECT_TRUE(begin.u.begin_snapshot.leads && begin.u.begin_snapshot.coloring);
    EXPECT_STREQ(hs_member_state_name(member.get()), "beginning");
    hs_member_begun(member.get(), nullptr);
    task(HS_TASK_PREPARE);
    EXPECT_EQ(event<Prepared>().info["boot_id"], "boot-1");
    work(Machine::table());
    next(HS_STEP_RELEASE); // the probes
    event<Installed>();
    work(ListenWork{});
    event<Heard>();
    work(ArmWork{});
    task(HS_TASK_ARM);
    event<Armed>();
    hs_member_red_frame(member.get());
    EXPECT_STREQ(next(HS_STEP_CUT).u.cut.cause, "red-frame");
    hs_mediator_cut(mediator.get());
    const hs_pause pause = {5, 9, 1, {{"stop", 3}}};
    hs_member_cut_done(member.get(), nullptr, &pause);
    const Json json = event<Cut>().pause;
    EXPECT_TRUE(json["begin_ns"].is_number_unsigned()); // as in a message that was read
    EXPECT_EQ(to_text(json), R"({"begin_ns":5,"end_ns":9,"steps":[{"name":"stop","us":3}]})");
    next(HS_STEP_RELEASE);
    task(HS_TASK_SETTLE);
    hs_member_memory_done(member.get(), nullptr);
    work(ExpectWork{});
    event<ChannelsFin>();
    task(HS_TASK_CHANNEL);
    next(HS_STEP_REPORT);
    hs_member_report(member.get(), "{\"memory\":1}", &pause);
    const Json report = event<FullFin>().report;
    EXPECT_EQ(report["memory"], 1);
    EXPECT_EQ(report["pause"], json);
    EXPECT_EQ(hs_member_manifest(member.get(), "now"), nullptr);
    work(PublishWork{{{"tag", "t"}}});
    char *manifest = hs_member_manifest(member.get(), "now");
    EXPECT_STREQ(manifest, "{\n    \"created\": \"now\",\n    \"tag\": \"t\"\n}\n");
    hs_string_free(manifest);
    task(HS_TASK_PUBLISH);
    event<Published>();
    work(CommitWork{true, "lost"});
    next(HS_STEP_RELEASE);
    const hs_step forget = next(HS_STEP_FORGET);
    EXPECT_TRUE(forget.u.forget.kept && forget.u.forget.in_doubt);
    EXPECT_STREQ(forget.u.forget.reason, "lost");
    EXPECT_TRUE(nothing());
    EXPECT_FALSE(hs_member_busy(member.get()));
    EXPECT_EQ(hs_member_ignored(member.get()), 0u);
}

TEST_F(MemberCApi, ARestore) {
    work(load_work());
    EXPECT_STREQ(next(HS_STEP_BEGIN_LOAD).u.begin_load.bundle, "/bundles/t");
    hs_member_loaded(member.get(), nullptr, nullptr);
    event<Loaded>();
    work(StartWork{});
    next(HS_STEP_START);
    hs_member_started(member.get(), nullptr, "{\"played\":2}");
    EXPECT_EQ(event<Started>().report["played"], 2);
    work(AbortWork{"x"});
    next(HS_STEP_STOP);
    event<Aborted>();
    EXPECT_TRUE(nothing());
}

TEST_F(MemberCApi, TheIothreadSeesAnAbort) {
    hs_work *abort = new hs_work{AbortWork{"why"}};
    EXPECT_STREQ(hs_work_abort_reason(abort), "why");
    EXPECT_STREQ(hs_work_name(abort), "abort");
    hs_work_free(abort);
    hs_work *arm = new hs_work{ArmWork{}};
    EXPECT_EQ(hs_work_abort_reason(arm), nullptr);
    hs_work_free(arm);
    hs_work_free(nullptr);
    hs_event_free(nullptr);
}

TEST_F(MemberCApi, AnAnswerThatCannotBeReadIsAFailure) {
    work(load_work());
    next(HS_STEP_BEGIN_LOAD);
    hs_member_loaded(member.get(), nullptr, "{");
    EXPECT_NE(event<Failed>().error.find("bad answer"), std::string::npos);
    EXPECT_STREQ(hs_member_state_name(member.get()), "load-failed");
}

TEST_F(MemberCApi, BadNamesAreRefused) {
    char *error = nullptr;
    EXPECT_EQ(hs_member_new("a/b", mediator.get(), "", &error), nullptr);
    EXPECT_NE(std::string(error).find("name"), std::string::npos);
    hs_string_free(error);
    EXPECT_EQ(hs_member_new(nullptr, mediator.get(), "", nullptr), nullptr);
    EXPECT_EQ(hs_member_new("b", nullptr, "", nullptr), nullptr);
}

} // namespace
} // namespace hotsnap::member
