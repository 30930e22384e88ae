// SPDX-License-Identifier: GPL-2.0-or-later
#include "restore/image_index.h"

#include "base/error.h"
#include "lazy_case.h"
#include "snapshot_case.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <random>
#include <unistd.h>

namespace hotsnap::memory {

namespace {

using test::Kind;
using test::Region;
using test::SavedImage;
using test::Snapshot;

constexpr uint64_t MiB = 1 << 20;

struct Images : testing::Test {
    Region ram{"pc.ram", Kind::anonymous, 4 * MiB};
    Region vga{"vga.vram", Kind::anonymous, 2 * MiB};
    std::unique_ptr<SavedImage> saved;

    void SetUp() override {
        ram.fill(0, 40);
        ram.fill(700, 300);
        vga.fill(511, 1);
        saved = std::make_unique<SavedImage>(std::vector<const Region *>{&ram, &vga});
    }
    VerifiedFile file() const { return {saved->image, saved->sums, saved->sums_xxh3}; }
    std::vector<ImageBlock> index() const { return read_index(file(), 2); }
};

TEST_F(Images, IndexSaysWhatAnIndependentReaderSays) {
    const auto expected = test::load_image(saved->image, Snapshot::head, true, 2);
    const std::vector<ImageBlock> found = index();
    ASSERT_EQ(found.size(), 2u);
    for (const ImageBlock &block : found) {
        const auto &other = expected.blocks.at(block.idstr);
        EXPECT_EQ(block.length, other.memory.size());
        EXPECT_EQ(block.pages_offset, other.pages_offset);
        uint64_t bits = 0;
        for (uint64_t page = 0; page < block.pages(); page++) {
            bits += block.stored(page);
        }
        EXPECT_EQ(bits, other.bits_set);
    }
}

TEST_F(Images, EveryFlippedByteOutsideThePagesIsNoticed) {
    const std::vector<ImageBlock> blocks = index();
    const uint64_t tail = blocks[1].pages_offset + blocks[1].length;
    std::vector<uint64_t> places;
    for (uint64_t at = 0; at < 200; at += 7) {
        places.push_back(at); // heads and the first bitmap
        places.push_back(blocks[0].pages_offset + blocks[0].length + at / 2);
    }
    for (uint64_t at = tail; at < saved->size(); at += 3) {
        places.push_back(at);
    }
    for (const uint64_t at : places) {
        saved->flip(at);
        EXPECT_THROW(index(), Error) << at;
        saved->flip(at);
    }
    EXPECT_NO_THROW(index());
}

TEST_F(Images, FlippedBytesOfPagesAreFoundByReadingThese) {
    const uint64_t offset = index()[0].pages_offset;
    const VerifiedFile whole = file();
    saved->flip(offset + 3 * page_bytes + 99);
    EXPECT_NO_THROW(index()); // no pass over the pages
    std::vector<std::byte> out(8 * page_bytes);
    std::array<bool, 8> good{};
    EXPECT_EQ(whole.read_pages(offset, out, good, VerifiedFile::Order::random), "wrong checksum");
    EXPECT_EQ(good, (std::array<bool, 8>{true, true, true, false, true, true, true, true}));
    saved->truncate(offset + 5 * page_bytes + 1);
    EXPECT_NE(whole.read_pages(offset, out, good, VerifiedFile::Order::random), "");
    EXPECT_EQ(good, (std::array<bool, 8>{true, true, true, false, true}));
    EXPECT_THROW(file(), Error); // too short from the start
}

TEST_F(Images, OtherChecksumsThanTheManifestsAreRefused) {
    EXPECT_THROW(VerifiedFile(saved->image, saved->sums, saved->sums_xxh3 + 1), Error);
    EXPECT_THROW(VerifiedFile(saved->image, saved->image, saved->sums_xxh3), Error);
    EXPECT_THROW(VerifiedFile(saved->folder.path("none"), saved->sums, saved->sums_xxh3), Error);
}

// Whoever makes an image can make its checksums, too: any content is refused, or has an index of
// which every place lies in the file.
TEST_F(Images, HostileHeadsAreRefusedOrHarmless) {
    std::mt19937_64 random(1);
    const std::vector<ImageBlock> blocks = index();
    const uint64_t second = blocks[0].pages_offset + blocks[0].length;
    int refused = 0;
    for (int round = 0; round < 150; round++) {
        const int fd = open(saved->image.c_str(), O_RDWR | O_CLOEXEC);
        const uint64_t at = (round % 2 == 0 ? Snapshot::head.size() : second) + random() % 70;
        std::array<char, 8> before{};
        std::array<char, 8> noise{};
        const size_t length = 1 + random() % 8;
        for (char &c : noise) {
            c = static_cast<char>(random() % 3 == 0 ? 0xff : random());
        }
        ASSERT_EQ(pread(fd, before.data(), length, static_cast<off_t>(at)),
                  static_cast<ssize_t>(length));
        ASSERT_GT(pwrite(fd, noise.data(), length, static_cast<off_t>(at)), 0);
        saved->sum_again();
        try {
            const VerifiedFile changed = file();
            for (const ImageBlock &block : read_index(changed, 2)) {
                ASSERT_LE(block.pages_offset + block.length, changed.size());
                ASSERT_EQ(block.bitmap.size(), (block.pages() + 63) / 64);
            }
        } catch (const Error &) {
            refused++;
        }
        ASSERT_GT(pwrite(fd, before.data(), length, static_cast<off_t>(at)), 0);
        close(fd);
    }
    EXPECT_GT(refused, 50);
}

TEST_F(Images, ShortImagesAreRefused) {
    for (const uint64_t size : {uint64_t{0}, uint64_t{5}, uint64_t{40}, uint64_t{5000},
                                uint64_t{MiB + 5}, saved->size() - 60}) {
        SavedImage copy({&ram, &vga});
        copy.truncate(size);
        copy.sum_again();
        const VerifiedFile file(copy.image, copy.sums, copy.sums_xxh3);
        if (size + 100 < saved->size()) {
            EXPECT_THROW(read_index(file, 2), Error) << size;
        }
    }
}

} // namespace

} // namespace hotsnap::memory
