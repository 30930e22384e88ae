// SPDX-License-Identifier: GPL-2.0-or-later
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "network/channel_record.h"

namespace hotsnap::network {
namespace {

namespace fs = std::filesystem;

class Folder {
  public:
    Folder() {
        std::string name = (fs::temp_directory_path() / "hotsnap-channel-XXXXXX").string();
        path_ = mkdtemp(name.data());
    }
    ~Folder() { fs::remove_all(path_); }
    std::string operator/(const char *name) const { return (path_ / name).string(); }
    const fs::path &path() const { return path_; }

  private:
    fs::path path_;
};

std::string content(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

void put(const std::string &path, const std::string &bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
}

ChannelFrame frame(uint32_t nic, size_t vnet, size_t size, int64_t time_ns) {
    ChannelFrame f{nic, nic * 257, nic % 2 == 1, time_ns, vnet, std::vector<uint8_t>(vnet + size)};
    for (size_t i = 0; i < f.data.size(); i++) {
        f.data[i] = static_cast<uint8_t>(i * 7 + nic);
    }
    return f;
}

TEST(ChannelRecordTest, FilesAreAsDocumented) {
    Folder folder;
    ChannelRecord record(1 << 20);
    ASSERT_TRUE(record.append(frame(3, 12, 60, 1'500'000'007)));
    std::string error;
    ASSERT_TRUE(record.write(folder / "c.pcap", folder / "c.vnet", error)) << error;
    const std::string pcap = content(folder / "c.pcap"), vnet = content(folder / "c.vnet");
    const unsigned char head[] = {0x4d, 0x3c, 0xb2, 0xa1, 2,  0, 4, 0, 0,  0, 0, 0, 0, 0,
                                  0,    0,    0,    0,    4,  0, 1, 0, 0,  0, 1, 0, 0, 0,
                                  0x07, 0x65, 0xcd, 0x1d, 60, 0, 0, 0, 60, 0, 0, 0};
    ASSERT_EQ(pcap.size(), sizeof(head) + 60);
    EXPECT_EQ(pcap.substr(0, sizeof(head)),
              std::string(reinterpret_cast<const char *>(head), sizeof(head)));
    ASSERT_EQ(vnet.size(), 24u + 20u);
    EXPECT_EQ(vnet.substr(0, 8), "HSVNET01");
    EXPECT_EQ(vnet[8], 20);
    EXPECT_EQ(vnet[16], 1);
    EXPECT_EQ(vnet[24], 3);  // NIC
    EXPECT_EQ(vnet[28], 12); // header size
    EXPECT_EQ(vnet[29], 1);  // from the guest
    EXPECT_EQ(vnet[30], 3);  // queue 3 * 257
    EXPECT_EQ(vnet[31], 3);
    const auto mode = fs::status(folder / "c.pcap").permissions();
    EXPECT_EQ(mode & fs::perms::all, fs::perms::owner_read | fs::perms::owner_write);
}

TEST(ChannelRecordTest, ReadsBackWhatItWrote) {
    EXPECT_TRUE(rc::check([] {
        Folder folder;
        ChannelRecord record(1 << 20);
        const auto count = *rc::gen::inRange(0, 8);
        for (int i = 0; i < count; i++) {
            const size_t vnet = *rc::gen::element<size_t>(0, 10, 12);
            record.append(frame(*rc::gen::inRange(0u, 9u), vnet, *rc::gen::inRange(14u, 3000u),
                                *rc::gen::inRange<int64_t>(0, 4'000'000'000'000'000'000)));
        }
        std::string error;
        RC_ASSERT(record.write(folder / "p", folder / "v", error));
        const auto read = ChannelRecord::read(folder / "p", folder / "v", error);
        RC_ASSERT(read.has_value());
        RC_ASSERT(read->size() == record.frames().size());
        for (size_t i = 0; i < read->size(); i++) {
            const ChannelFrame &a = record.frames()[i], &b = (*read)[i];
            RC_ASSERT(a.nic == b.nic);
            RC_ASSERT(a.queue == b.queue);
            RC_ASSERT(a.from_guest == b.from_guest);
            RC_ASSERT(a.time_ns == b.time_ns);
            RC_ASSERT(a.vnet_size == b.vnet_size);
            RC_ASSERT(a.data == b.data);
        }
    }));
}

TEST(ChannelRecordTest, IsBounded) {
    ChannelRecord record(1000);
    size_t kept = 0;
    while (record.append(frame(0, 0, 100, 0))) {
        kept++;
    }
    EXPECT_GT(kept, 0u);
    EXPECT_LT(kept, 10u);
    EXPECT_EQ(record.frames().size(), kept);
    record.clear();
    EXPECT_TRUE(record.append(frame(0, 0, 100, 0)));
}

TEST(ChannelRecordTest, NeverOverwritesAndLeavesNothingBehind) {
    Folder folder;
    const ChannelRecord record(1000);
    std::string error;
    put(folder / "v", "mine");
    EXPECT_FALSE(record.write(folder / "p", folder / "v", error));
    EXPECT_NE(error.find(folder / "v"), std::string::npos) << error;
    EXPECT_EQ(content(folder / "v"), "mine");
    EXPECT_FALSE(fs::exists(folder / "p"));
    EXPECT_FALSE(record.write(folder / "no/p", folder / "x", error));
    EXPECT_FALSE(fs::exists(folder / "x"));
}

// A changed byte count or header must be refused; the bundle's checksums find a changed payload
// byte.
TEST(ChannelRecordTest, DamageIsFoundOrHarmless) {
    Folder folder;
    ChannelRecord record(1 << 20);
    for (uint32_t i = 0; i < 3; i++) {
        record.append(frame(i, 12, 60 + i, 5));
    }
    std::string error;
    ASSERT_TRUE(record.write(folder / "p", folder / "v", error));
    const std::string pcap = content(folder / "p"), vnet = content(folder / "v");
    for (size_t length = 0; length < pcap.size(); length++) {
        put(folder / "p", pcap.substr(0, length));
        EXPECT_FALSE(ChannelRecord::read(folder / "p", folder / "v", error)) << length;
        EXPECT_NE(error.find(folder / "p"), std::string::npos) << error;
    }
    put(folder / "p", pcap + "x");
    EXPECT_FALSE(ChannelRecord::read(folder / "p", folder / "v", error));
    put(folder / "p", pcap);
    for (size_t length = 0; length < vnet.size(); length++) {
        put(folder / "v", vnet.substr(0, length));
        EXPECT_FALSE(ChannelRecord::read(folder / "p", folder / "v", error)) << length;
    }
    EXPECT_TRUE(rc::check([&] {
        std::string p = pcap, v = vnet;
        std::string &hit = *rc::gen::arbitrary<bool>() ? p : v;
        const auto at = *rc::gen::inRange<size_t>(0, hit.size());
        hit[at] = static_cast<char>(*rc::gen::arbitrary<uint8_t>());
        put(folder / "p", p);
        put(folder / "v", v);
        std::string why;
        const auto read = ChannelRecord::read(folder / "p", folder / "v", why);
        RC_ASSERT((read ? read->size() == 3 : !why.empty()));
    }));
}

TEST(ChannelRecordTest, MissingFiles) {
    std::string error;
    EXPECT_FALSE(ChannelRecord::read("/nonexistent/p", "/nonexistent/v", error));
    EXPECT_NE(error.find("/nonexistent/p"), std::string::npos);
}

} // namespace
} // namespace hotsnap::network
