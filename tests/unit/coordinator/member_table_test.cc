// SPDX-License-Identifier: GPL-2.0-or-later
#include <set>

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "network/color.h"
#include "network/mac.h"
#include "network/member_table.h"

namespace hotsnap::network {
namespace {

Mac mac(const char *text) {
    return *Mac::parse(text);
}

TEST(MacTest, ReadsAndWrites) {
    EXPECT_EQ(mac("52:54:00:Ab:cD:ef").to_string(), "52:54:00:ab:cd:ef");
    EXPECT_EQ(mac("52:54:00:12:34:56").value(), 0x525400123456u);
    const uint8_t bytes[] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
    EXPECT_EQ(Mac::from_bytes(bytes), mac("52:54:00:12:34:56"));
    EXPECT_TRUE(mac("ff:ff:ff:ff:ff:ff").is_group());
    EXPECT_TRUE(mac("33:33:00:00:00:01").is_group());
    EXPECT_FALSE(mac("52:54:00:12:34:56").is_group());
}

TEST(MacTest, RefusesOtherText) {
    for (const char *text :
         {"", "52:54:00:12:34", "52:54:00:12:34:5", "52:54:00:12:34:567", "52-54-00-12-34-56",
          "52:54:00:12:34:5g", " 52:54:00:12:34:5", "52:54:00:12:34:56:"}) {
        EXPECT_FALSE(Mac::parse(text)) << text;
    }
}

TEST(MacTest, TextAndValueAreOne) {
    EXPECT_TRUE(rc::check([](uint64_t value) {
        const Mac any(value);
        RC_ASSERT(Mac::parse(any.to_string()) == any);
    }));
}

TEST(ColorTest, MasksLeaveGroupAndLocalBitsAlone) {
    for (int mask = 0; mask < 256; mask++) {
        const auto tint = tint_of(static_cast<uint8_t>(mask));
        if (tint) {
            EXPECT_EQ(mask & ~tint_bits, 0);
            EXPECT_EQ(mask_of(*tint), mask);
        }
    }
    EXPECT_EQ(mask_of({Color::natural, false}), 0);
    EXPECT_EQ(mask_of({Color::white, false}), 0x04);
    EXPECT_EQ(mask_of({Color::white, true}), 0x14);
    EXPECT_EQ(mask_of({Color::red, false}), 0x08);
    EXPECT_EQ(mask_of({Color::red, true}), 0x18);
    EXPECT_FALSE(tint_of(0x10));
    EXPECT_FALSE(tint_of(0x0c));
    EXPECT_FALSE(tint_of(0x02));
}

TEST(MemberTableTest, FindsNaturalAndColored) {
    std::string error;
    const auto table =
        MemberTable::build({{"a", {mac("52:54:00:00:00:01"), mac("52:54:00:00:00:02")}},
                            {"b", {}},
                            {"c", {mac("fe:54:00:00:00:03")}}},
                           error);
    ASSERT_TRUE(table) << error;
    const auto second = table->find(mac("52:54:00:00:00:02"));
    ASSERT_TRUE(second);
    EXPECT_EQ(second->mac, 1u);
    EXPECT_EQ(second->member, 0u);
    EXPECT_EQ(second->tint, Tint());
    const auto red = table->find(mac("fe:54:00:00:00:03").masked(0x18));
    ASSERT_TRUE(red);
    EXPECT_EQ(red->mac, 2u);
    EXPECT_EQ(red->member, 2u);
    EXPECT_EQ(red->tint, (Tint{Color::red, true}));
    EXPECT_FALSE(table->find(mac("52:54:00:00:00:03")));
    EXPECT_FALSE(table->find(mac("42:54:00:00:00:01"))); // 0x10 alone is no color
    EXPECT_FALSE(table->find(mac("50:54:00:00:00:01"))); // another local bit
    EXPECT_FALSE(MemberTable().find(mac("52:54:00:00:00:01")));
}

TEST(MemberTableTest, RefusesCollisionsOfAllTintBits) {
    const Mac first = mac("52:54:00:00:00:01");
    for (uint8_t bits = 0; bits <= tint_bits; bits = static_cast<uint8_t>(bits + 4)) {
        std::string error;
        EXPECT_FALSE(MemberTable::build({{"a", {first}}, {"b", {first.masked(bits)}}}, error));
        EXPECT_NE(error.find("'a'"), std::string::npos) << error;
        EXPECT_NE(error.find("'b'"), std::string::npos) << error;
    }
    std::string error;
    EXPECT_TRUE(MemberTable::build({{"a", {first}}, {"b", {first.masked(0x20)}}}, error)) << error;
}

TEST(MemberTableTest, RefusesBadMembers) {
    std::string error;
    EXPECT_FALSE(MemberTable::build({{"a", {}}, {"a", {}}}, error));
    EXPECT_FALSE(MemberTable::build({{"a b", {}}}, error));
    EXPECT_FALSE(MemberTable::build({{"a", {mac("01:00:5e:00:00:01")}}}, error));
    EXPECT_NE(error.find("group"), std::string::npos) << error;
}

// Compares with a plain search through all MACs and masks.
TEST(MemberTableTest, AgreesWithLinearSearch) {
    EXPECT_TRUE(rc::check([](std::vector<uint32_t> tails, uint32_t other, uint8_t octet) {
        std::vector<Member> members;
        for (const uint32_t tail : tails) {
            members.push_back(
                {"m" + std::to_string(members.size()), {Mac(0x5200'0000'0000 | tail % 64)}});
        }
        std::string error;
        const auto table = MemberTable::build(members, error);
        std::set<uint32_t> unique;
        for (const uint32_t tail : tails) {
            unique.insert(tail % 64);
        }
        RC_ASSERT(table.has_value() == (unique.size() == tails.size()));
        RC_PRE(table.has_value());
        const Mac any(static_cast<uint64_t>(octet) << 40 | other % 64);
        const auto found = table->find(any);
        bool expected = false;
        for (uint32_t m = 0; m < members.size(); m++) {
            for (int mask = 0; mask < 256; mask++) {
                const auto tint = tint_of(static_cast<uint8_t>(mask));
                if (tint && members[m].macs[0].masked(static_cast<uint8_t>(mask)) == any) {
                    expected = true;
                    RC_ASSERT(found.has_value());
                    RC_ASSERT(found->member == m);
                    RC_ASSERT(found->tint == *tint);
                }
            }
        }
        RC_ASSERT(found.has_value() == expected);
    }));
}

TEST(NameTest, Form) {
    EXPECT_TRUE(is_valid_name("db-1.example_x"));
    EXPECT_TRUE(is_valid_name(std::string(64, 'x')));
    for (const std::string &name : {std::string(), std::string(65, 'x'), std::string("a b"),
                                    std::string("a/b"), std::string("ü"), std::string("a\0b", 3)}) {
        EXPECT_FALSE(is_valid_name(name)) << name;
    }
}

} // namespace
} // namespace hotsnap::network
