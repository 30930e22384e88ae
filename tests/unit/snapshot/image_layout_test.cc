// SPDX-License-Identifier: GPL-2.0-or-later
//
// A loader that reads as QEMU does (mapped_ram.h) finds in an image all that the layout writes.
#include "image/image_layout.h"

#include "guest.h"
#include "mapped_ram.h"
#include "os/file.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cstring>

namespace hotsnap::memory {

namespace {

MemoryBlock block_of(const std::string &name, uint64_t pages, uint64_t address) {
    MemoryBlock block;
    block.idstr = name;
    block.host = reinterpret_cast<std::byte *>(address); // never read here
    block.length = pages * page_bytes;
    return block;
}

std::vector<std::byte> bytes_of(const std::string &text) {
    const auto *bytes = reinterpret_cast<const std::byte *>(text.data());
    return {bytes, bytes + text.size()};
}

// Writes the metadata, and into each page with data its number.
test::LoadedImage write_and_load(const StreamFormat &format, const GuestMemory &memory,
                                 const std::vector<bool> &data, const std::string &tail) {
    const test::Folder folder;
    const std::string path = folder.path("image");
    const ImageLayout layout(format, memory);
    bool direct = false;
    const Fd fd = create_exclusive(path, direct);
    const auto tail_bytes = bytes_of(tail);
    const auto pieces =
        layout.metadata([&](uint64_t page) { return static_cast<bool>(data[page]); }, tail_bytes);
    for (const ImageLayout::Piece &piece : pieces) {
        EXPECT_EQ(piece.offset % page_bytes, 0u);
        write_all(fd.get(), piece.bytes, piece.offset, path);
    }
    EXPECT_EQ(pieces.back().offset, layout.pages_end());
    for (uint64_t page = 0; page < memory.pages(); page++) {
        if (data[page]) {
            const MemoryBlock &block = memory.block_of_page(page);
            std::vector<uint64_t> content(page_bytes / 8, page + 1);
            write_all(fd.get(), std::as_bytes(std::span(content)),
                      layout.page_offset(block, page - block.first_page), path);
        }
    }
    const test::LoadedImage image =
        test::load_image(path, format.head, format.section_footer, format.section_id);
    EXPECT_EQ(ImageLayout::size(pieces), image.file_size);
    return image;
}

TEST(ImageLayout, LoaderFindsEveryPage) {
    EXPECT_TRUE(rc::check(
        [](bool footer, uint32_t section_id, const std::string &head, const std::string &tail) {
            const auto sizes = *rc::gen::nonEmpty(
                rc::gen::container<std::vector<uint64_t>>(rc::gen::inRange<uint64_t>(1, 700)));
            std::vector<MemoryBlock> blocks;
            for (size_t i = 0; i < sizes.size(); i++) {
                const std::string name = "/rom@" + std::string(i % 200, 'x') + std::to_string(i);
                blocks.push_back(block_of(name, sizes[i], (i + 1) << 32));
            }
            const GuestMemory memory(blocks);
            const auto data =
                *rc::gen::container<std::vector<bool>>(memory.pages(), rc::gen::arbitrary<bool>());
            const test::LoadedImage image =
                write_and_load({bytes_of(head), section_id, 4, footer}, memory, data, tail);
            RC_ASSERT(image.tail == bytes_of(tail));
            RC_ASSERT(image.order.size() == memory.blocks().size());
            for (size_t i = 0; i < memory.blocks().size(); i++) {
                const MemoryBlock &block = memory.blocks()[i];
                RC_ASSERT(image.order[i] == block.idstr);
                const test::LoadedBlock &loaded = image.blocks.at(block.idstr);
                for (uint64_t page = 0; page < block.pages(); page++) {
                    uint64_t content;
                    std::memcpy(&content, loaded.memory.data() + page * page_bytes + 8, 8);
                    const uint64_t number = block.first_page + page;
                    RC_ASSERT(content == (data[number] ? number + 1 : 0));
                }
            }
        }));
}

TEST(ImageLayout, BitmapThatJustFitsAndOneThatDoesNot) {
    // Header and bitmap of the second block are 2 bytes shorter than 1 MiB, or 6 bytes longer.
    for (const uint64_t extra : {0, 64}) {
        const uint64_t header = 1 + 1 + 8 + 28;
        const uint64_t bits = ((1 << 20) - header - 2) * 8; // bytes for the bitmap, times 8
        const uint64_t pages = bits / 64 * 64 + extra;
        const GuestMemory memory({block_of("a", 1, 1ull << 40), block_of("b", pages, 1ull << 41)});
        const ImageLayout layout({}, memory);
        const MemoryBlock &second = memory.blocks()[1];
        EXPECT_EQ(layout.pages_offset(second) % (1 << 20), 0u);
        const uint64_t bitmap_end =
            layout.pages_offset(memory.blocks()[0]) + 4096 + header + (pages + 63) / 64 * 8;
        EXPECT_GE(layout.pages_offset(second), bitmap_end);
        EXPECT_LT(layout.pages_offset(second), bitmap_end + (1 << 20));
    }
}

TEST(GuestMemory, EmptyBlocksAreLeftOut) {
    const GuestMemory memory({block_of("a", 0, 1 << 20), block_of("b", 2, 1 << 21)});
    ASSERT_EQ(memory.blocks().size(), 1u);
    EXPECT_EQ(memory.blocks()[0].idstr, "b");
    EXPECT_EQ(memory.blocks()[0].first_page, 0u);
}

TEST(GuestMemory, BadBlocksAreRefused) {
    EXPECT_THROW(GuestMemory({}), std::runtime_error);
    EXPECT_THROW(GuestMemory({block_of("", 1, 4096)}), std::runtime_error);
    EXPECT_THROW(GuestMemory({block_of(std::string(256, 'x'), 1, 4096)}), std::runtime_error);
    EXPECT_THROW(GuestMemory({block_of("a", 1, 4097)}), std::runtime_error);
    EXPECT_THROW(GuestMemory({block_of("a", 2, 8192), block_of("b", 1, 12288)}),
                 std::runtime_error);
    MemoryBlock odd = block_of("a", 1, 4096);
    odd.length = 5000;
    EXPECT_THROW(GuestMemory({odd}), std::runtime_error);
    MemoryBlock huge = block_of("a", 512, 4096);
    huge.page_size = 2 << 20;
    EXPECT_THROW(GuestMemory({huge}), std::runtime_error);
}

TEST(GuestMemory, AddressesAndPagesFindTheirBlock) {
    const GuestMemory memory({block_of("a", 10, 1 << 30), block_of("b", 5, 1 << 20)});
    EXPECT_EQ(memory.block_of_page(9).idstr, "a");
    EXPECT_EQ(memory.block_of_page(10).idstr, "b");
    EXPECT_EQ(memory.block_of_address((1 << 20) + 5 * 4096 - 1)->idstr, "b");
    EXPECT_EQ(memory.block_of_address((1 << 20) + 5 * 4096), nullptr);
    EXPECT_EQ(memory.block_of_address((1 << 20) - 1), nullptr);
    EXPECT_EQ(memory.block_of_address(1 << 30)->idstr, "a");
}

} // namespace

} // namespace hotsnap::memory
