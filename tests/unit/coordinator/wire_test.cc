// SPDX-License-Identifier: GPL-2.0-or-later
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "wire/framing.h"
#include "wire/messages.h"

namespace hotsnap::cluster {
namespace {

std::span<const uint8_t> bytes(const std::string &text) {
    return {reinterpret_cast<const uint8_t *>(text.data()), text.size()};
}

TEST(WireTest, Frame) {
    EXPECT_EQ(wire::frame("abc"), std::string("\0\0\0\3abc", 7));
}

// The messages do not depend on the pieces in which a stream comes.
TEST(WireTest, PiecesDoNotMatter) {
    EXPECT_TRUE(rc::check([](std::vector<std::string> messages) {
        std::string stream;
        std::vector<std::string> sent;
        for (const std::string &message : messages) {
            if (!message.empty()) {
                stream += wire::frame(message);
                sent.push_back(message);
            }
        }
        wire::Decoder decoder;
        std::vector<std::string> received;
        for (size_t at = 0; at < stream.size();) {
            const size_t piece = *rc::gen::inRange<size_t>(1, stream.size() - at + 1);
            decoder.feed(bytes(stream.substr(at, piece)));
            at += piece;
            while (auto message = decoder.next()) {
                received.push_back(*message);
            }
        }
        RC_ASSERT(received == sent);
        RC_ASSERT(decoder.error().empty());
    }));
}

TEST(WireTest, TooLongBreaksTheStreamForGood) {
    for (const std::string &head : {std::string("\0\0\0\0", 4), std::string("\1\0\0\1", 4),
                                    std::string("\xff\xff\xff\xff", 4), std::string("GET ")}) {
        wire::Decoder decoder;
        decoder.feed(bytes(wire::frame("first") + head));
        EXPECT_EQ(decoder.next(), "first");
        EXPECT_FALSE(decoder.next());
        EXPECT_FALSE(decoder.error().empty());
        decoder.feed(bytes(wire::frame("more")));
        EXPECT_FALSE(decoder.next());
    }
    wire::Decoder decoder;
    decoder.feed(bytes(std::string("\1\0\0\0", 4))); // exactly the largest
    EXPECT_FALSE(decoder.next());
    EXPECT_TRUE(decoder.error().empty());
    decoder.set_limit(1000);
    EXPECT_FALSE(decoder.next());
    EXPECT_FALSE(decoder.error().empty());
}

// The JSON in messages (options, reports) goes on to a parser that takes 2^21 tokens.
TEST(WireTest, NotTooManyParts) {
    const auto install = [](size_t sources) {
        std::string text = R"({"type":"INSTALL","run":"r","epoch":1,"members":[{"name":"a",)"
                           R"("nics":[{"nic":"n","mac":"52:54:00:00:00:01","complete":true,)"
                           R"("sources":[)";
        for (size_t i = 0; i < sources; i++) {
            text += R"("52:54:00:00:00:01",)";
        }
        return text + R"("52:54:00:00:00:02"]}]}]})";
    };
    EXPECT_NO_THROW(decode(install(700'000)));
    std::string many = R"({"type":"PREPARE","options":[)";
    for (size_t i = 0; i < 1'100'000; i++) {
        many += "0,";
    }
    EXPECT_THROW(decode(many + "0]}"), BadInput);
}

// Every type survives the way to JSON and back.
TEST(MessagesTest, RoundTrip) {
    const Mac a(0x525400000001), b(0x525400000002);
    const auto ten = *network::IpAddress::parse("10.0.0.1");
    const auto six = *network::IpAddress::parse("2001:db8::1");
    const std::vector<Message> messages = {
        Hello{1, "db"},
        ErrorMessage{"why"},
        Prepare{"r", "t1", "/b", false, 1, 2, 3, {{"x", 1}}},
        Prepared{"r", 7, {{"net0", a, {b}, false, 4, {ten, six}}}, {{"boot_id", "x"}}},
        Precopy{"r"},
        Precopied{"r", true, 4096},
        Refused{"r", "no"},
        Install{"r", 8, {{"db", {{"net0", a, {}, true}}}, {"web", {{"net1", b, {a}, false}}}}},
        Installed{"r"},
        Listen{"r"},
        Heard{"r", {{{b, a}, 3}}, 5, 6},
        Arm{"r", 7},
        Armed{"r"},
        Snapshot{"r", 8},
        TransientSnapFin{"r", {{{a, b}, 17}}, {{{b, a}, 3}}, {{"begin_ns", 1}}, "snapshot"},
        AllTransientSnapFin{"r", {{{a, b}, 17}, {{b, a}, 0}}, {{{b, a}, 1}}},
        ChannelsFin{"r", 3, 4, 6, {{{a, b}, 5}}},
        ColoringEnd{"r"},
        Retarget{"r", 9},
        FullSnapFin{"r", {{"memory", {{"file", "db/state"}}}}},
        AllFullSnapFin{"r"},
        Abort{"r", "why"},
        Aborted{"r", ""},
        Progress{"r", 1, 2, 3},
        Heartbeat{"r"},
        Restore{"r", "/b/t1", 1, 2, Json::object()},
        Loaded{"r", Json::object()},
        Start{"r"},
        Started{"r", {{"played", 1}}},
        Restored{"r"},
        PrepareBarrier{"r", "t1", "/b", 1, 2, 3, {{"x", 1}}},
        Flush{"r", 8},
        Flushed{"r"},
        Hold{"r"},
        Held{"r"},
        Switch{"r"},
        Switched{"r", {{"begin_ns", 1}}},
        AllSwitched{"r"},
    };
    ASSERT_EQ(messages.size(), std::variant_size_v<Message>);
    for (size_t i = 0; i < messages.size(); i++) {
        EXPECT_EQ(messages[i].index(), i);
        const std::string text = encode(messages[i]);
        const Message back = decode(text);
        EXPECT_EQ(back.index(), i) << text;
        EXPECT_EQ(encode(back), text);
        EXPECT_EQ(run_of(back), i < 2 ? "" : "r") << text;
        // Without any one of its fields, and with a wrong type of one, the message is refused.
        const Json json = parse_json(text);
        for (const auto &[key, value] : json.items()) {
            Json less = json;
            less.erase(key);
            if (key == "coloring") {
                continue; // this one has a default
            }
            if (key == "finish_us" || key == "expected_us") { // left out when 0
                EXPECT_EQ(encode(decode(to_text(less))), to_text(less));
            } else {
                EXPECT_THROW(decode(to_text(less)), BadInput) << text << " without " << key;
            }
            Json wrong = json;
            wrong[key] = value.is_boolean() ? Json(1) : Json(true);
            EXPECT_THROW(decode(to_text(wrong)), BadInput) << text << " with a wrong " << key;
        }
    }
}

TEST(MessagesTest, BadInput) {
    for (const char *text : {"", "{", "[]", "null", "{}", "{\"type\":7}", "{\"type\":\"ARM\"}",
                             "{\"type\":\"ARM\",\"run\":7}", "\xff\xfe"}) {
        EXPECT_THROW(decode(text), BadInput) << text;
    }
    EXPECT_THROW(decode(R"({"type":"MAKE_COFFEE"})"), UnknownMessage);
    EXPECT_THROW(decode(R"({"type":"TRANSIENT_SNAP_FIN","run":"r","white_sent":{"a>b":1},)"
                        R"("heard":{},"pause":{},"cause":""})"),
                 BadInput);
    // A NIC in a list of NICs.
    const Json good = {{"nic", "net0"},
                       {"mac", "52:54:00:00:00:01"},
                       {"sources", {"52:54:00:00:00:02"}},
                       {"complete", true}};
    const auto prepared = [](const Json &nic) {
        return to_text({{"type", "PREPARED"},
                        {"run", "r"},
                        {"last_epoch", 0},
                        {"nics", {nic}},
                        {"info", Json::object()}});
    };
    EXPECT_NO_THROW(decode(prepared(good)));
    for (const auto &[key, value] : good.items()) {
        Json less = good, wrong = good;
        less.erase(key);
        wrong[key] = 7;
        EXPECT_THROW(decode(prepared(less)), BadInput) << "without " << key;
        EXPECT_THROW(decode(prepared(wrong)), BadInput) << "with a wrong " << key;
    }
    Json addresses = good;
    addresses["addresses"] = {"10.0.0.1", "2001:db8::1"};
    EXPECT_NO_THROW(decode(prepared(addresses)));
    for (const Json &wrong : {Json(7), Json({7}), Json({"10.0.0"}), Json({"10.0.0.1", "x"})}) {
        addresses["addresses"] = wrong;
        EXPECT_THROW(decode(prepared(addresses)), BadInput) << wrong;
    }
    std::string deep = R"({"type":"FULL_SNAP_FIN","run":"r","report":{"x":)" +
                       std::string(1'000'000, '[') + std::string(1'000'000, ']') + "}}";
    EXPECT_THROW(decode(deep), BadInput);
    EXPECT_NO_THROW(decode(R"({"type":"ABORT","run":"r","reason":"[[[[\"[[["})"));
}

TEST(MessagesTest, AnyTextIsRefusedOrRead) {
    EXPECT_TRUE(rc::check([](const std::string &text) {
        try {
            decode(text);
        } catch (const BadInput &) {
        }
    }));
    // Closer to real input: a good message with changed bytes.
    const Mac a(0x525400000001), b(0x525400000002);
    const std::string good = encode(
        TransientSnapFin{"run", {{{a, b}, 17}}, {{{b, a}, 3}}, {{"begin_ns", 1}}, "snapshot"});
    EXPECT_TRUE(rc::check([&good] {
        std::string text = good;
        const int changes = *rc::gen::inRange(1, 4);
        for (int i = 0; i < changes; i++) {
            text[*rc::gen::inRange<size_t>(0, text.size())] =
                static_cast<char>(*rc::gen::arbitrary<uint8_t>());
        }
        try {
            decode(text);
        } catch (const BadInput &) {
        }
    }));
}

TEST(JsonTest, TextThatIsNotUtf8IsReplaced) {
    EXPECT_NO_THROW(encode(Abort{"r", "cannot open \xff\xfe"}));
    EXPECT_NO_THROW(decode(encode(Abort{"r", "cannot open \xff\xfe"})));
}

} // namespace
} // namespace hotsnap::cluster
