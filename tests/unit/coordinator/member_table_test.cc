// SPDX-License-Identifier: GPL-2.0-or-later
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "network/alias.h"
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

Member member(const char *name, std::vector<MemberNic> nics) {
    return {name, std::move(nics)};
}

MemberTable build(std::vector<Member> members) {
    std::string error;
    auto table = MemberTable::build(std::move(members), error);
    EXPECT_TRUE(table) << error;
    return *table;
}

TEST(AliasTest, IsAUnicastAddressAndReadsBack) {
    for (const uint64_t hash : {uint64_t{0}, UINT64_MAX, uint64_t{0x1234'5678'9abc'def0}}) {
        const AliasPrefix prefix = AliasPrefix::from_hash(hash);
        for (const uint32_t index : {0u, 1u, (1u << 22) - 1}) {
            for (const Color color : {Color::white, Color::red}) {
                for (const bool odd : {false, true}) {
                    const Mac alias = prefix.alias(index, {color, odd});
                    EXPECT_FALSE(alias.is_group());
                    EXPECT_TRUE(alias.first_octet() & 2); // locally administered
                    const auto reading = prefix.read(alias);
                    ASSERT_TRUE(reading);
                    EXPECT_EQ(reading->index, index);
                    EXPECT_EQ(reading->tint, (Tint{color, odd}));
                }
            }
        }
    }
    EXPECT_FALSE(AliasPrefix::from_hash(0).read(mac("52:54:00:12:34:56")));
}

TEST(MemberTableTest, TellsTheNicsThatSendForAnAddress) {
    const Mac first = mac("52:54:00:00:00:01"), second = mac("52:54:00:00:00:02"),
              third = mac("52:54:00:00:00:03"), shared = mac("00:00:5e:00:01:01");
    const MemberTable table =
        build({member("a", {{"net0", first, {shared}}}), member("b", {}),
               member("c", {{"net0", second, {}}, {"net1", third, {shared, first}}})});
    ASSERT_EQ(table.nics().size(), 3u);
    EXPECT_EQ(table.nics()[2].member, 2u);
    EXPECT_EQ(table.nic(third), 2u);
    EXPECT_FALSE(table.nic(shared));
    EXPECT_TRUE(table.knows(shared));
    EXPECT_FALSE(table.knows(mac("52:54:00:00:00:04")));
    ASSERT_EQ(table.senders(shared).size(), 2u);
    ASSERT_EQ(table.senders(first).size(), 2u);
    EXPECT_FALSE(table.source(1, shared));
    const auto at_third = table.source(2, shared);
    ASSERT_TRUE(at_third);
    const auto seen = table.read(table.alias(*at_third, {Color::red, true}));
    ASSERT_TRUE(seen);
    EXPECT_EQ(table.sources()[seen->source].nic, 2u);
    EXPECT_EQ(table.sources()[seen->source].mac, shared);
    EXPECT_EQ(seen->tint, (Tint{Color::red, true}));
    EXPECT_FALSE(table.read(first));
    EXPECT_FALSE(table.read(table.alias(6, {Color::red, true}))); // six sources have an index
    EXPECT_FALSE(MemberTable().read(first));
}

TEST(MemberTableTest, EveryMemberHasTheSameAliasesAndOtherTablesHaveOthers) {
    const std::vector<Member> members = {member("a", {{"net0", mac("52:54:00:00:00:01"), {}}}),
                                         member("b", {{"net0", mac("52:54:00:00:00:02"), {}}})};
    const Mac alias = build(members).alias(1, {Color::white, false});
    EXPECT_EQ(build(members).alias(1, {Color::white, false}), alias);
    std::vector<Member> more = members;
    more[0].nics[0].sources.push_back(mac("02:00:00:00:00:01"));
    EXPECT_FALSE(build(more).read(alias));
    std::vector<Member> taken = members; // an address that looks like an alias of theirs
    taken[0].nics[0].mac = alias;
    EXPECT_FALSE(build(taken).read(alias));
}

TEST(MemberTableTest, TwoNicsWithOneMacAreRefused) {
    const Mac one = mac("52:54:00:00:00:01");
    std::string error;
    EXPECT_FALSE(MemberTable::build(
        {member("a", {{"net0", one, {}}}), member("b", {{"net0", one, {}}})}, error));
    EXPECT_NE(error.find("'a'"), std::string::npos) << error;
    EXPECT_NE(error.find("'b'"), std::string::npos) << error;
}

TEST(MemberTableTest, IsCompleteWhenAllListsAre) {
    const Mac one = mac("52:54:00:00:00:01");
    EXPECT_TRUE(build({member("a", {{"net0", one, {}, true}})}).complete());
    EXPECT_FALSE(build({member("a", {{"net0", one, {}, false}})}).complete());
}

TEST(MemberTableTest, RefusesBadMembers) {
    std::string error;
    EXPECT_FALSE(MemberTable::build({{"a", {}}, {"a", {}}}, error));
    EXPECT_FALSE(MemberTable::build({{"a b", {}}}, error));
    EXPECT_FALSE(MemberTable::build({{"a", {{"net0", mac("01:00:5e:00:00:01"), {}}}}}, error));
    EXPECT_NE(error.find("group"), std::string::npos) << error;
    EXPECT_FALSE(MemberTable::build(
        {{"a", {{"net0", mac("52:54:00:00:00:01"), {mac("01:00:5e:00:00:01")}}}}}, error));
}

TEST(MemberTableTest, TellsWhoseAnIpAddressIs) {
    const auto ip = [](const char *text) { return *IpAddress::parse(text); };
    MemberNic a{"net0", mac("52:54:00:00:00:01"), {}}, b{"net0", mac("52:54:00:00:00:02"), {}};
    a.addresses = {ip("10.0.0.1"), ip("10.0.0.9")};
    b.addresses = {ip("10.0.0.2"), ip("10.0.0.9"), ip("10.0.0.9")};
    const MemberTable table = build({member("a", {a}), member("b", {b})});
    EXPECT_TRUE(table.is_of_another(ip("10.0.0.1"), 1));
    EXPECT_FALSE(table.is_of_another(ip("10.0.0.1"), 0));
    EXPECT_TRUE(table.is_of_another(ip("10.0.0.9"), 0)); // a virtual router's
    EXPECT_TRUE(table.is_of_another(ip("10.0.0.9"), 1));
    EXPECT_FALSE(table.is_of_another(ip("10.0.0.3"), 0));
}

TEST(MemberTableTest, RefusesIpAddressesThatNoMemberCanHave) {
    const auto error_of = [](std::vector<IpAddress> addresses) {
        MemberNic nic{"net0", mac("52:54:00:00:00:01"), {}};
        nic.addresses = std::move(addresses);
        std::string error;
        const auto table = MemberTable::build({member("a", {nic})}, error);
        EXPECT_EQ(table.has_value(), error.empty());
        return error;
    };
    EXPECT_EQ(error_of({*IpAddress::parse("10.0.0.1")}), "");
    EXPECT_EQ(error_of({*IpAddress::parse("224.0.0.1")}),
              "NIC 'net0' of member 'a' claims the IP address 224.0.0.1, which is no unicast "
              "address of a network");
    EXPECT_EQ(error_of(std::vector<IpAddress>(64, *IpAddress::parse("10.0.0.1"))), "");
    EXPECT_EQ(error_of(std::vector<IpAddress>(65, *IpAddress::parse("10.0.0.1"))),
              "NIC 'net0' of member 'a' claims 65 IP addresses; at most 64 can be listed");
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
