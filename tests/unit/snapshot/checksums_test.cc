// SPDX-License-Identifier: GPL-2.0-or-later
#include "image/checksums.h"

#include "guest.h"
#include "guest/zero_page.h"
#include "hotsnap/snapshot.h"
#include "os/file.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <xxhash.h>

#include <fcntl.h>
#include <unistd.h>

namespace hotsnap::memory {

namespace {

const auto never = [] { return false; };

class Sums : public testing::Test {
  protected:
    test::Folder folder;
    std::string path = folder.path("file");
    std::string sums = folder.path("file.sums");

    void write(uint64_t offset, const std::vector<std::byte> &bytes, uint64_t size) {
        const Fd fd(open(path.c_str(), O_RDWR | O_CREAT, 0600));
        ASSERT_EQ(ftruncate(fd.get(), static_cast<off_t>(size)), 0);
        write_all(fd.get(), bytes, offset, path);
    }
    uint64_t sum_it(uint64_t unit = 4096) {
        unlink(sums.c_str());
        uint64_t xxh3 = 0;
        char *error = nullptr;
        EXPECT_TRUE(hs_sums_write(path.c_str(), sums.c_str(), unit, &xxh3, nullptr, &error))
            << error;
        return xxh3;
    }
    std::string verify(uint64_t *bad = nullptr) {
        bool good = false;
        uint64_t offset = 0;
        char *error = nullptr;
        if (!hs_sums_verify(path.c_str(), sums.c_str(), &good, &offset, nullptr, &error)) {
            const std::string text = error;
            hs_string_free(error);
            return text;
        }
        if (bad != nullptr) {
            *bad = offset;
        }
        return good ? "good" : "bad";
    }
};

std::vector<std::byte> noise(size_t size) {
    std::vector<std::byte> bytes(size);
    for (size_t i = 0; i < size; i++) {
        bytes[i] = static_cast<std::byte>(i * 7 + i / 251);
    }
    return bytes;
}

TEST_F(Sums, FileIsAsItsFormatSays) {
    write(8192, noise(5000), 8192 + 5000);
    const uint64_t xxh3 = sum_it();
    const Fd fd(open(sums.c_str(), O_RDONLY));
    std::array<unsigned char, 64 + 4 * 8 + 1> raw;
    ASSERT_EQ(read(fd.get(), raw.data(), raw.size()), 64 + 4 * 8);
    EXPECT_EQ(std::memcmp(raw.data(), "HSSUMS1\0\1\0\0\0\0\x10\0\0", 16), 0);
    const auto u64 = [&](size_t at) {
        uint64_t value;
        std::memcpy(&value, raw.data() + at, 8);
        return value;
    };
    EXPECT_EQ(u64(16), 8192u + 5000u);
    EXPECT_EQ(u64(24), 4u);
    EXPECT_EQ(u64(64), 0u); // a hole
    EXPECT_EQ(u64(72), 0u);
    const auto content = noise(5000);
    EXPECT_EQ(u64(80), XXH3_64bits(content.data(), 4096));
    EXPECT_EQ(u64(88), XXH3_64bits(content.data() + 4096, 904));
    EXPECT_EQ(xxh3, XXH3_64bits(raw.data(), 64 + 4 * 8));
    EXPECT_EQ(verify(), "good");
}

TEST_F(Sums, EveryFlippedByteIsFoundAndPlaced) {
    EXPECT_TRUE(rc::check([this] {
        unlink(path.c_str());
        const auto size = *rc::gen::inRange<uint64_t>(1, 300'000);
        const auto unit = *rc::gen::element<uint64_t>(4096, 65536);
        const auto start = *rc::gen::inRange<uint64_t>(0, size);
        write(start, noise(size - start), size);
        sum_it(unit);
        RC_ASSERT(verify() == "good");
        const auto at = *rc::gen::inRange<uint64_t>(0, size);
        const Fd fd(open(path.c_str(), O_RDWR));
        std::byte byte;
        RC_ASSERT(pread(fd.get(), &byte, 1, static_cast<off_t>(at)) == 1);
        byte ^= std::byte{1};
        RC_ASSERT(pwrite(fd.get(), &byte, 1, static_cast<off_t>(at)) == 1);
        uint64_t bad = 0;
        RC_ASSERT(verify(&bad) == "bad");
        RC_ASSERT(bad == at / unit * unit);
    }));
}

TEST_F(Sums, ADataPageTurnedToZerosIsFound) {
    write(0, noise(16384), 16384);
    sum_it();
    write(4096, std::vector<std::byte>(4096), 16384);
    uint64_t bad = 0;
    EXPECT_EQ(verify(&bad), "bad");
    EXPECT_EQ(bad, 4096u);
}

TEST_F(Sums, OtherLengthsAreFound) {
    write(0, noise(20000), 20000);
    sum_it();
    ASSERT_EQ(truncate(path.c_str(), 16384), 0);
    EXPECT_EQ(verify(), "bad");
    write(0, noise(20000), 20000);
    EXPECT_EQ(verify(), "good");
    write(0, noise(20000), 40960); // zeros at the end
    uint64_t bad = 0;
    EXPECT_EQ(verify(&bad), "bad");
    EXPECT_EQ(bad, 20000u / 4096 * 4096);
}

TEST_F(Sums, DamagedSumsFilesAreRefused) {
    write(0, noise(20000), 20000);
    for (const auto &[at, value, why] :
         {std::tuple{0, 'X', "magic"}, {8, '\2', "version"}, {24, '\7', "contradicts"}}) {
        sum_it();
        const Fd fd(open(sums.c_str(), O_RDWR));
        ASSERT_EQ(pwrite(fd.get(), &value, 1, at), 1);
        EXPECT_NE(verify().find(why), std::string::npos) << verify();
    }
    sum_it();
    ASSERT_EQ(truncate(sums.c_str(), 80), 0);
    EXPECT_NE(verify().find("truncated"), std::string::npos);
    ASSERT_EQ(truncate(sums.c_str(), 10), 0);
    EXPECT_NE(verify().find("magic"), std::string::npos);
}

TEST_F(Sums, HolesAreNotRead) {
    // A terabyte: reading it would outlast the test.
    write(1ull << 39, noise(4096), 1ull << 40);
    EXPECT_EQ(sum_file(path, 4 << 20, never).sums().size(), 1u << 18);
}

TEST_F(Sums, CancelledAndBadArguments) {
    write(0, noise(100), 100);
    EXPECT_THROW(sum_file(path, 4096, [] { return true; }), std::runtime_error);
    EXPECT_THROW(sum_file(path, 1000, never), std::runtime_error);
    EXPECT_THROW(sum_file(folder.path("none"), 4096, never), std::runtime_error);
    sum_it();
    char *error = nullptr;
    EXPECT_FALSE(hs_sums_write(path.c_str(), sums.c_str(), 4096, nullptr, nullptr, &error));
    EXPECT_NE(std::string(error).find("already exists"), std::string::npos);
    hs_string_free(error);
}

TEST(ZeroPage, FindsASingleBitAnywhere) {
    EXPECT_TRUE(rc::check([] {
        const auto size = *rc::gen::inRange<size_t>(1, 9000);
        std::vector<std::byte> bytes(size);
        RC_ASSERT(is_zero(bytes.data(), size));
        const auto at = *rc::gen::inRange<size_t>(0, size);
        bytes[at] = static_cast<std::byte>(1 << *rc::gen::inRange(0, 8));
        RC_ASSERT(!is_zero(bytes.data(), size));
    }));
}

} // namespace

} // namespace hotsnap::memory
