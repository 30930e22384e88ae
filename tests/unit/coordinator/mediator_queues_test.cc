// SPDX-License-Identifier: GPL-2.0-or-later
// The packet mediator with NICs of several queues, which keep no common order.
#include <deque>
#include <random>

#include "mediator_case.h"
#include "network/channel_json.h"

namespace hotsnap::network {
namespace {

using QueueAndPayload = std::pair<uint32_t, int>;
using Sequence = std::vector<QueueAndPayload>;

// Member "b" with one NIC, in epoch 2.
class Queues {
  public:
    Queues(uint32_t ours, uint32_t of_a) : members_(members(ours, of_a)) {
        mediator.add_nic("net0", mac_b, 12, ours);
    }
    static std::vector<Member> members(uint32_t ours, uint32_t of_a) {
        return {{"a", {{"net0", mac_a, {}, true, of_a}}}, {"b", {{"net0", mac_b, {}, true, ours}}}};
    }
    void arm() {
        std::string error;
        ASSERT_TRUE(mediator.prepare(2, "b", members_, true, error)) << error;
        mediator.start_coloring();
        mediator.armed();
    }
    void cut() {
        arm();
        mediator.cut();
    }
    void expect(PairCounts counts, PairCounts marks) {
        std::string error;
        ASSERT_TRUE(mediator.expect(counts, marks, error)) << error;
    }
    hs_verdict pass(hs_direction direction, uint32_t queue, const std::vector<uint8_t> &data) {
        Mac source;
        return mediator.frame({0, direction, data.data(), data.size(), 12, queue}, 0, source);
    }
    hs_verdict receive(uint32_t queue, Tone tone, uint8_t payload) {
        const Mac source = colored(table_of(members_), mac_a, tone);
        return pass(HS_TO_GUEST, queue, bytes(source, mac_b, payload, 12));
    }
    void receive_mark(uint32_t queue, uint16_t through) {
        const Probe mark{2, mac_a, Probe::Kind::mark, through};
        EXPECT_EQ(pass(HS_TO_GUEST, queue, mark.frame(mac_a, 12)), HS_HOLD);
    }
    Sequence released() {
        Sequence frames;
        for (hs_frame held; mediator.next_released(held, 0);) {
            frames.emplace_back(held.queue, held.data[held.size - 1]);
        }
        return frames;
    }
    Sequence recorded() const {
        Sequence frames;
        for (const ChannelFrame &frame : mediator.record().frames()) {
            frames.emplace_back(frame.queue, frame.data.back());
        }
        return frames;
    }

    Mediator mediator;

  private:
    std::vector<Member> members_;
};

const PairCounts mark_of_a{{{mac_a, mac_b}, 1}};

TEST(MediatorQueuesTest, HeldAndRecordedFramesKeepTheirQueue) {
    Queues b(2, 1);
    b.arm();
    EXPECT_EQ(b.receive(1, red_even, 1), HS_HOLD_AND_CUT);
    EXPECT_EQ(b.receive(0, white_even, 2), HS_HOLD); // in any queue, all wait for the cut
    EXPECT_EQ(b.receive(1, white_even, 3), HS_HOLD);
    EXPECT_EQ(b.pass(HS_FROM_GUEST, 1, bytes(mac_b, everyone, 4, 12)), HS_HOLD);
    b.mediator.cut();
    EXPECT_EQ(b.receive(1, white_even, 5), HS_HOLD); // for its turn
    EXPECT_EQ(b.released(), (Sequence{{1, 1}, {0, 2}, {1, 3}, {1, 5}}));
    EXPECT_EQ(b.recorded(), (Sequence{{0, 2}, {1, 3}, {1, 4}, {1, 5}}));
    b.mediator.end_coloring();
    EXPECT_EQ(b.released(), (Sequence{{1, 4}}));
}

TEST(MediatorQueuesTest, MarksLeaveThroughEachQueue) {
    Queues b(3, 1);
    b.cut();
    b.mediator.mark();
    std::vector<uint32_t> through;
    for (hs_frame held; b.mediator.next_released(held, 0);) {
        const auto probe =
            Probe::parse(*FrameView::parse(held.data, held.size, held.vnet_header_size));
        ASSERT_TRUE(probe && probe->kind == Probe::Kind::mark);
        EXPECT_EQ(probe->queue, held.queue);
        through.push_back(held.queue);
    }
    EXPECT_EQ(through, (std::vector<uint32_t>{0, 0, 1, 1, 2, 2}));
}

TEST(MediatorQueuesTest, AMarkCountsOnceTheOtherQueuesHaveBeenEmpty) {
    Queues b(3, 1);
    b.cut();
    b.expect({}, mark_of_a);
    EXPECT_FALSE(b.mediator.awaits_empty());
    b.receive_mark(1, 0);
    EXPECT_TRUE(b.mediator.awaits_empty());
    EXPECT_FALSE(b.mediator.channels_complete());
    b.mediator.queue_empty(0, 2);
    b.mediator.queue_empty(0, 1); // tells nothing
    b.receive(0, natural, 7);     // was in queue 0 when the mark came
    EXPECT_FALSE(b.mediator.channels_complete());
    b.receive_mark(2, 0); // the other copy does not begin anew
    b.mediator.queue_empty(0, 0);
    EXPECT_TRUE(b.mediator.channels_complete());
    EXPECT_FALSE(b.mediator.awaits_empty());
    EXPECT_EQ(b.recorded(), (Sequence{{0, 7}}));
    EXPECT_EQ(b.mediator.stats().unmarked, 0u);

    Queues single(1, 1);
    single.cut();
    single.expect({}, mark_of_a);
    single.receive_mark(0, 0);
    EXPECT_TRUE(single.mediator.channels_complete());
}

TEST(MediatorQueuesTest, TheMarksOfAllQueuesMustCome) {
    Queues b(1, 2);
    b.cut();
    b.receive_mark(0, 0); // before we know that it is due
    b.expect({}, mark_of_a);
    b.receive_mark(0, 0);
    b.receive_mark(0, 2); // a has no such queue
    EXPECT_FALSE(b.mediator.channels_complete());
    EXPECT_EQ(b.mediator.heard(), PairCounts());
    b.receive_mark(0, 1);
    EXPECT_TRUE(b.mediator.channels_complete());
    EXPECT_EQ(b.mediator.heard(), (PairCounts{{{mac_a, mac_b}, heard_mark}}));
}

TEST(MediatorQueuesTest, AMarkThatWaitsAtTheCloseIsDeclared) {
    Queues b(2, 1);
    b.cut();
    b.expect({}, mark_of_a);
    b.receive_mark(0, 0);
    b.mediator.close_channels();
    EXPECT_EQ(b.mediator.stats().unmarked, 1u);
    EXPECT_FALSE(b.mediator.awaits_empty());
    b.receive_mark(0, 0); // nobody waits any more
    EXPECT_FALSE(b.mediator.awaits_empty());
}

TEST(MediatorQueuesTest, RedClosesAChannelOnlyWhereFramesKeepTheirOrder) {
    for (const auto &[ours, of_a] : {std::pair(1u, 1u), {2u, 1u}, {1u, 2u}}) {
        Queues b(ours, of_a);
        b.cut();
        b.expect({{{mac_a, mac_b}, 2}}, {});
        b.receive(0, white_even, 1);
        b.receive(0, red_even, 2);
        EXPECT_EQ(b.mediator.channels_complete(), ours == 1 && of_a == 1);
        b.receive(ours - 1, white_even, 3); // the red one has overtaken it
        EXPECT_TRUE(b.mediator.channels_complete());
        EXPECT_EQ(b.recorded().size(), ours == 1 && of_a == 1 ? 1u : 2u);
        EXPECT_EQ(b.mediator.stats().lost, ours == 1 && of_a == 1 ? 1u : 0u);
    }
}

TEST(MediatorQueuesTest, TheNumberOfQueuesIsInTheTable) {
    const std::vector<Member> members = Queues::members(4, 1);
    const Json json = members_to_json(members);
    EXPECT_EQ(members_from_json(json), members);
    EXPECT_FALSE(json[0]["nics"][0].contains("queues")); // one needs no word
    Queues b(4, 1);
    EXPECT_EQ(b.mediator.list_nics().at(0).queues, 4u);
    for (const uint64_t queues : {uint64_t{0}, uint64_t{most_queues} + 1}) {
        Json wrong = json;
        wrong[1]["nics"][0]["queues"] = queues;
        EXPECT_THROW(members_from_json(wrong), BadInput);
    }
}

enum class Flaw : uint8_t { none, takes_all_for_empty, knows_one_sending_queue };

// a sends natural frames through its queues, then a mark behind them through each. They leave the
// queues in any order, come to ours in any, and we read ours in any. Returns whether all that was
// sent before the marks is recorded, and the channels are complete in the end.
bool all_recorded(unsigned seed, Flaw flaw) {
    std::mt19937 random(seed);
    const auto below = [&random](size_t n) { return static_cast<size_t>(random() % n); };
    const auto ours = static_cast<uint32_t>(1 + below(3));
    const auto theirs = static_cast<uint32_t>(flaw == Flaw::none ? 1 + below(3) : 2 + below(2));
    Queues b(ours, flaw == Flaw::knows_one_sending_queue ? 1 : theirs);
    b.cut();
    b.expect({}, mark_of_a);
    struct Item {
        bool mark;
        uint16_t through;
    };
    std::vector<std::deque<Item>> sent(theirs), come(ours);
    size_t frames = 0, left = 0;
    for (uint16_t queue = 0; queue < theirs; queue++) {
        for (size_t count = below(4); count > 0; count--, frames++) {
            sent[queue].push_back({false, queue});
        }
        sent[queue].push_back({true, queue});
        sent[queue].push_back({true, queue});
        left += 2 * sent[queue].size(); // steps
    }
    while (left > 0) {
        const size_t from = below(theirs), to = below(ours);
        if (below(2) == 0 && !sent[from].empty()) {
            come[to].push_back(sent[from].front());
            sent[from].pop_front();
            left--;
        } else if (!come[to].empty()) {
            const Item item = come[to].front();
            come[to].pop_front();
            left--;
            if (item.mark) {
                b.receive_mark(static_cast<uint32_t>(to), item.through);
            } else {
                b.receive(static_cast<uint32_t>(to), natural, 0);
            }
        }
        for (uint32_t queue = 0; b.mediator.awaits_empty() && queue < ours; queue++) {
            if (come[queue].empty() || flaw == Flaw::takes_all_for_empty) {
                b.mediator.queue_empty(0, queue);
            }
        }
    }
    return b.mediator.channels_complete() && b.recorded().size() == frames;
}

TEST(MediatorQueuesTest, NothingSentBeforeTheMarksIsMissedInAnyOrder) {
    constexpr unsigned runs = 500;
    unsigned unread_missed = 0, unsent_missed = 0;
    for (unsigned seed = 0; seed < runs; seed++) {
        EXPECT_TRUE(all_recorded(seed, Flaw::none)) << "seed " << seed;
        unread_missed += !all_recorded(seed, Flaw::takes_all_for_empty);
        unsent_missed += !all_recorded(seed, Flaw::knows_one_sending_queue);
    }
    EXPECT_GT(unread_missed, runs / 20); // the controls: each half of the rule is needed
    EXPECT_GT(unsent_missed, runs / 20);
}

} // namespace
} // namespace hotsnap::network
