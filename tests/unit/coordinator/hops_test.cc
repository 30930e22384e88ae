// SPDX-License-Identifier: GPL-2.0-or-later
#include <gtest/gtest.h>

#include "network/hearing.h"
#include "network/hops.h"

namespace hotsnap::network {
namespace {

const Mac mac_a(0x525400000001), mac_a2(0x5254000000a1), mac_b(0x525400000002),
    mac_c(0x525400000003);
const Mac shared(0x02000000000d), behind_c(0x02000000000e), stranger(0x020000000001);

constexpr uint32_t a = 0, b = 1, c = 2;
constexpr uint64_t natural = heard_natural, alias = heard_alias, both = natural | alias;

// a has two NICs; b and c send for one address, and c for one more.
class HopsTest : public testing::Test {
  protected:
    HopsTest() {
        std::string error;
        hops = Hops(*MemberTable::build({{"a", {{"net0", mac_a, {}}, {"net1", mac_a2, {}}}},
                                         {"b", {{"net0", mac_b, {shared}}}},
                                         {"c", {{"net0", mac_c, {shared, behind_c}}}}},
                                        error));
    }

    void add(uint32_t member, const PairCounts &sent, const PairCounts &heard = {}) {
        EXPECT_EQ(hops.send(member, sent), "");
        EXPECT_EQ(hops.hear(member, heard), "");
    }
    void expect(const PairCounts &by_a, const PairCounts &by_b, const PairCounts &by_c) {
        std::vector<PairCounts> white;
        for (const Hops::Expected &expected : hops.expected()) {
            white.push_back(expected.white);
        }
        EXPECT_EQ(white, (std::vector<PairCounts>{by_a, by_b, by_c}));
    }

    Hops hops;
};

TEST_F(HopsTest, NothingSent) {
    add(a, {});
    expect({}, {}, {});
    EXPECT_EQ(hops.obstacle(), "");
    EXPECT_EQ(hops.lost({{}, {}, {}}), 0u);
}

TEST_F(HopsTest, ANicGetsWhatIsForIt) {
    add(a, {{{mac_a, mac_b}, 4}, {{mac_a, mac_c}, 5}, {{mac_a2, mac_b}, 6}},
        {{{mac_b, mac_a}, both}});
    add(b, {{{mac_b, mac_a2}, 7}}, {{{mac_a, mac_b}, both}, {{mac_a2, mac_b}, both}});
    add(c, {}, {{{mac_a, mac_c}, both}});
    expect({{{mac_b, mac_a2}, 7}}, {{{mac_a, mac_b}, 4}, {{mac_a2, mac_b}, 6}},
           {{{mac_a, mac_c}, 5}});
    EXPECT_EQ(hops.lost({{}, {}, {}}), 0u) << "each loss is its receiver's to tell";
}

TEST_F(HopsTest, WithoutAPathNobodyIsToldToExpect) {
    add(a, {{{mac_a, mac_b}, 4}, {{mac_a, behind_c}, 5}});
    expect({}, {}, {});
    EXPECT_EQ(hops.lost({{}, {{{mac_a, mac_b}, 4}}, {{{mac_a, behind_c}, 3}}}), 2u);
}

TEST_F(HopsTest, AMarkIsDueInBothDirectionsOfAPath) {
    add(a, {}, {{{mac_b, mac_a}, both}});
    const std::vector<Hops::Expected> expected = hops.expected();
    EXPECT_EQ(expected[a].marks, (PairCounts{{{mac_b, mac_a}, 1}}));
    EXPECT_EQ(expected[b].marks, (PairCounts{{{mac_a, mac_b}, 1}}));
    EXPECT_EQ(expected[c].marks, PairCounts());
}

TEST_F(HopsTest, OfTwoSendersTheOneWithAPathGetsAll) {
    add(a, {{{mac_a, shared}, 4}});
    add(c, {}, {{{mac_a, mac_c}, both}});
    expect({}, {}, {{{mac_a, shared}, 4}});
}

TEST_F(HopsTest, APathIsOneThatWasHeardInEitherDirection) {
    add(a, {{{mac_a, shared}, 4}}, {{{mac_b, mac_a}, alias}});
    expect({}, {{{mac_a, shared}, 4}}, {});
}

TEST_F(HopsTest, APathOfAnotherNicOfTheMemberDoesNotCount) {
    add(a, {{{mac_a, shared}, 4}, {{mac_a2, shared}, 6}}, {{{mac_b, mac_a}, both}});
    add(c, {}, {{{mac_a2, mac_c}, both}});
    expect({}, {{{mac_a, shared}, 4}}, {{{mac_a2, shared}, 6}});
}

TEST_F(HopsTest, OfTwoSendersWithAPathNobodyIsToldToExpect) {
    add(a, {{{mac_a, shared}, 5}});
    add(b, {}, {{{mac_a, mac_b}, both}});
    add(c, {}, {{{mac_a, mac_c}, both}});
    expect({}, {}, {});
}

TEST_F(HopsTest, NorOfTwoWithoutAny) {
    add(a, {{{mac_a, shared}, 5}});
    expect({}, {}, {});
    EXPECT_EQ(hops.lost({{}, {}, {}}), 5u);
}

TEST_F(HopsTest, ASenderIsNotItsOwnReceiver) {
    add(b, {{{mac_b, shared}, 5}}, {{{mac_a, mac_b}, both}});
    add(c, {}, {{{mac_b, mac_c}, both}});
    expect({}, {}, {{{mac_b, shared}, 5}});
}

TEST_F(HopsTest, WhatNobodyGotIsLost) {
    add(a, {{{mac_a, shared}, 5}, {{mac_a2, shared}, 7}, {{mac_a, mac_b}, 9}},
        {{{mac_b, mac_a}, both}});
    add(b, {}, {{{mac_a2, mac_b}, both}});
    add(c, {}, {{{mac_a, mac_c}, both}, {{mac_a2, mac_c}, both}});
    expect({}, {{{mac_a, mac_b}, 9}}, {});
    EXPECT_EQ(hops.lost({{}, {}, {}}), 12u);
    EXPECT_EQ(hops.lost({{}, {{{mac_a, shared}, 5}}, {}}), 7u);
    EXPECT_EQ(hops.lost({{}, {{{mac_a, shared}, 3}}, {{{mac_a, shared}, 1}}}), 8u);
    EXPECT_EQ(hops.lost({{}, {{{mac_a, shared}, 5}}, {{{mac_a2, shared}, 7}}}), 0u);
}

TEST_F(HopsTest, CopiesOfASwitchThatFloodsMakeUpForNoOtherChannel) {
    add(a, {{{mac_a, shared}, 5}, {{mac_a2, shared}, 7}});
    expect({}, {}, {});
    EXPECT_EQ(hops.lost({{}, {{{mac_a, shared}, 5}}, {{{mac_a, shared}, 5}}}), 7u);
}

TEST_F(HopsTest, WhatNobodyAskedForIsNotCounted) {
    add(a, {{{mac_a, mac_b}, 4}});
    add(b, {}, {{{mac_a, mac_b}, both}});
    expect({}, {{{mac_a, mac_b}, 4}}, {});
    EXPECT_EQ(hops.lost({{}, {}, {{{mac_a, mac_b}, 4}, {{mac_b, mac_a}, 1}}}), 0u);
}

TEST_F(HopsTest, AnAliasThatDoesNotArriveIsAnObstacle) {
    add(a, {}, {{{mac_b, mac_a2}, both}});
    add(b, {}, {{{mac_a2, mac_b}, both}});
    add(c, {}, {{{mac_a2, mac_c}, natural}}); // one frame may be lost, b has heard it
    EXPECT_EQ(hops.obstacle(), "");
    add(a, {}, {{{mac_c, mac_a2}, natural}});
    EXPECT_EQ(hops.obstacle(),
              "The network drops frames with other source addresses from NIC 'net0' "
              "(52:54:00:00:00:03) of member 'c': other members hear it, but not its colored "
              "frames; let that port send with any locally administered source (port security, "
              "anti-spoofing, static entries)");
}

TEST_F(HopsTest, AMemberCountsForItselfOnly) {
    const std::string no_channel = "a channel that is not its own, ";
    EXPECT_EQ(hops.send(a, {{{mac_b, mac_a}, 1}}),
              no_channel + "52:54:00:00:00:02 to 52:54:00:00:00:01");
    EXPECT_EQ(hops.send(a, {{{mac_a, stranger}, 1}}),
              no_channel + "52:54:00:00:00:01 to 02:00:00:00:00:01");
    EXPECT_EQ(hops.send(b, {{{shared, mac_a}, 1}}), // the NIC's own MAC names a channel
              no_channel + "02:00:00:00:00:0d to 52:54:00:00:00:01");
    expect({}, {}, {});
}

TEST_F(HopsTest, AMemberHearsForItselfOnly) {
    for (const auto &pair :
         {Pair{mac_a, mac_c}, Pair{stranger, mac_b}, Pair{mac_a, stranger}, Pair{shared, mac_b}}) {
        EXPECT_EQ(hops.hear(b, {{pair, natural}}),
                  "to have heard " + pair.first.to_string() + " at " + pair.second.to_string() +
                      ", which is no NIC of its own or of a member");
    }
    EXPECT_EQ(hops.obstacle(), "");
}

} // namespace
} // namespace hotsnap::network
