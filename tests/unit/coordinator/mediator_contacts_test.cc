// SPDX-License-Identifier: GPL-2.0-or-later
// The packet mediator: to whom the guest speaks after the cut, and when.
#include "mediator_case.h"
#include "network/channel_json.h"

namespace hotsnap::network {
namespace {

constexpr uint32_t a = 0, c = 2;
constexpr int64_t us = 1000;

class MediatorContactsTest : public MediatorTest {
  protected:
    void begin() {
        began = now;
        mediator.begin_contacts(now);
    }
    void send_at(Mac to, int64_t after_ns) {
        now = began + after_ns;
        send(to);
    }
    ContactRecord record_at(int64_t after_ns) {
        return mediator.contacts(began + after_ns).value();
    }

    int64_t began = 0;
};

TEST_F(MediatorContactsTest, TheFirstFrameToEachMember) {
    cut();
    begin();
    send_at(mac_c, 1500 * us + 999);
    send_at(mac_a, 1700 * us);
    send_at(mac_c, 1800 * us);
    mediator.end_coloring();
    send_at(mac_a, 1900 * us);
    EXPECT_EQ(record_at(2000 * us), (ContactRecord{2000, {{c, 1500}, {a, 1700}}}));
    EXPECT_EQ(to_text(contacts_to_json(record_at(2000 * us), mediator.table().members())),
              R"({"first_us":{"a":1700,"c":1500},"until_us":2000})");
}

TEST_F(MediatorContactsTest, NotToGroupsNorItselfNorTheOutside) {
    cut();
    begin();
    for (const Mac to : {everyone, mac_b2, outsider, Mac(0x020000000077)}) {
        send_at(to, 10 * us);
    }
    receive(mac_a, red_even);
    EXPECT_EQ(record_at(20 * us), (ContactRecord{20, {}}));
}

// It waits until coloring ends, but a restored guest sends it as soon as it did here.
TEST_F(MediatorContactsTest, AFrameThatWaitsCountsWhenItWasSent) {
    const Mac fresh(0x02000000000f);
    cut();
    begin();
    now = began + 7 * us;
    EXPECT_EQ(frame(HS_FROM_GUEST, fresh, mac_a).verdict, HS_HOLD);
    EXPECT_EQ(record_at(20 * us), (ContactRecord{20, {{a, 7}}}));
}

// It is in the record, and a restored member sends it at once.
TEST_F(MediatorContactsTest, AFrameThatWaitsAtTheCutIsSentAtTheStart) {
    const Mac fresh(0x02000000000f);
    arm();
    EXPECT_EQ(frame(HS_FROM_GUEST, fresh, mac_c).verdict, HS_HOLD);
    EXPECT_EQ(send(everyone).verdict, HS_HOLD);
    mediator.cut();
    mediator.mark(); // frames of the mediator's own, to a group
    begin();
    EXPECT_EQ(record_at(20 * us), (ContactRecord{20, {{c, 0}}}));
}

TEST_F(MediatorContactsTest, NothingBeforeTheCutNorAfterTheReset) {
    mediator.begin_contacts(now);
    EXPECT_FALSE(mediator.contacts(now));
    arm();
    mediator.begin_contacts(now);
    send(mac_a);
    EXPECT_FALSE(mediator.contacts(now));
    mediator.cut();
    EXPECT_FALSE(mediator.contacts(now)) << "the VM stands still yet";
    begin();
    send_at(mac_a, 10 * us);
    mediator.reset();
    EXPECT_FALSE(mediator.contacts(now));
    cut(4);
    begin();
    send_at(mac_c, 30 * us);
    EXPECT_EQ(record_at(40 * us), (ContactRecord{40, {{c, 30}}})) << "of this epoch only";
}

TEST_F(MediatorContactsTest, ForFiveSeconds) {
    cut();
    begin();
    send_at(mac_a, Contacts::longest_ns - us);
    send_at(mac_c, Contacts::longest_ns);
    send_at(mac_c, 20 * us); // the clock was set back; noting has ended
    EXPECT_EQ(record_at(2 * Contacts::longest_ns), (ContactRecord{5'000'000, {{a, 4'999'999}}}));
}

TEST_F(MediatorContactsTest, AClockThatIsSetBackMakesTimesShorter) {
    cut();
    begin();
    send_at(mac_a, 500 * us);
    send_at(mac_a, -second_ns);
    EXPECT_EQ(record_at(600 * us), (ContactRecord{600, {{a, 0}}}));
    EXPECT_EQ(record_at(-second_ns), (ContactRecord{0, {}}));
}

// A record that is cut short says so: what it leaves out comes after its end.
TEST(Contacts, OfTooManyTheFirst) {
    Contacts contacts;
    contacts.prepare(6);
    contacts.begin(100);
    for (const uint32_t member : {5u, 3u, 4u, 1u}) {
        contacts.note(member, 100 + static_cast<int64_t>(member) * 1000);
    }
    contacts.note(2, 100 + 3000); // as early as another one
    EXPECT_EQ(contacts.record(5, 1'000'100),
              (ContactRecord{1000, {{1, 1}, {2, 3}, {3, 3}, {4, 4}, {5, 5}}}));
    EXPECT_EQ(contacts.record(3, 1'000'100), (ContactRecord{4, {{1, 1}, {2, 3}, {3, 3}}}));
    EXPECT_EQ(contacts.record(2, 1'000'100), (ContactRecord{3, {{1, 1}}}));
    EXPECT_EQ(contacts.record(0, 1'000'100), (ContactRecord{1, {}}));
}

} // namespace
} // namespace hotsnap::network
