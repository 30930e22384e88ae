// SPDX-License-Identifier: GPL-2.0-or-later
#include "image/image_layout.h"

#include <cstring>
#include <string_view>

namespace hotsnap::memory {

namespace {

// QEMU: migration/savevm.c (QEMU_VM_*), migration/ram.c (RAM_SAVE_FLAG_*, MAPPED_RAM_*).
constexpr uint8_t vm_section_start = 0x01;
constexpr uint8_t vm_section_end = 0x03;
constexpr uint8_t vm_section_footer = 0x7e;
constexpr uint64_t ram_flag_mem_size = 0x04;
constexpr uint64_t ram_flag_eos = 0x10;
constexpr uint32_t mapped_ram_version = 1;
constexpr uint64_t mapped_ram_header_bytes = 4 + 8 + 8 + 8;
constexpr uint64_t pages_alignment = 1 << 20;

using Bytes = std::vector<std::byte>;

template <typename T> void put(Bytes &out, T value) { // big-endian
    for (int shift = 8 * (static_cast<int>(sizeof(T)) - 1); shift >= 0; shift -= 8) {
        out.push_back(static_cast<std::byte>(static_cast<uint64_t>(value) >> shift));
    }
}

void put(Bytes &out, std::string_view text) {
    put(out, static_cast<uint8_t>(text.size()));
    for (const char c : text) {
        out.push_back(static_cast<std::byte>(c));
    }
}

uint64_t bitmap_bytes(const MemoryBlock &block) {
    constexpr uint64_t bits = 8 * sizeof(unsigned long);
    return (block.pages() + bits - 1) / bits * sizeof(unsigned long);
}

uint64_t block_header_bytes(const MemoryBlock &block) {
    return 1 + block.idstr.size() + 8 + mapped_ram_header_bytes;
}

void put_footer(Bytes &out, const StreamFormat &format) {
    if (format.section_footer) {
        put(out, vm_section_footer);
        put(out, format.section_id);
    }
}

void put_bitmap(Bytes &out, const MemoryBlock &block,
                const std::function<bool(uint64_t)> &has_data) {
    constexpr uint64_t bits = 8 * sizeof(unsigned long);
    std::vector<unsigned long> words(bitmap_bytes(block) / sizeof(unsigned long));
    for (uint64_t page = 0; page < block.pages(); page++) {
        if (has_data(block.first_page + page)) {
            words[page / bits] |= 1ul << (page % bits);
        }
    }
    const size_t at = out.size();
    out.resize(at + bitmap_bytes(block));
    std::memcpy(out.data() + at, words.data(), bitmap_bytes(block));
}

} // namespace

ImageLayout::ImageLayout(StreamFormat format, const GuestMemory &memory)
    : format_(std::move(format)), memory_(memory) {
    uint64_t at = section_start().size();
    for (const MemoryBlock &block : memory.blocks()) {
        const uint64_t bitmap = at + block_header_bytes(block);
        const uint64_t end = bitmap + bitmap_bytes(block);
        const uint64_t pages = (end + pages_alignment - 1) & ~(pages_alignment - 1);
        places_.push_back({bitmap, pages});
        at = pages + block.length;
    }
    pages_end_ = at;
}

uint64_t ImageLayout::pages_offset(const MemoryBlock &block) const {
    return places_[static_cast<size_t>(&block - memory_.blocks().data())].pages_offset;
}

Bytes ImageLayout::section_start() const {
    Bytes out = format_.head;
    put(out, vm_section_start);
    put(out, format_.section_id);
    put(out, std::string_view("ram"));
    put(out, uint32_t{0});
    put(out, format_.version_id);
    put(out, memory_.bytes() | ram_flag_mem_size);
    return out;
}

std::vector<ImageLayout::Piece> ImageLayout::metadata(const std::function<bool(uint64_t)> &has_data,
                                                      std::span<const std::byte> tail) const {
    std::vector<Piece> pieces;
    Piece piece{0, section_start()};
    for (size_t i = 0; i < places_.size(); i++) {
        const MemoryBlock &block = memory_.blocks()[i];
        put(piece.bytes, std::string_view(block.idstr));
        put(piece.bytes, block.length);
        put(piece.bytes, mapped_ram_version);
        put(piece.bytes, page_bytes);
        put(piece.bytes, places_[i].bitmap_offset);
        put(piece.bytes, places_[i].pages_offset);
        put_bitmap(piece.bytes, block, has_data);
        pieces.push_back(std::move(piece));
        piece = {places_[i].pages_offset + block.length, {}};
    }
    put(piece.bytes, ram_flag_eos);
    put_footer(piece.bytes, format_);
    put(piece.bytes, vm_section_end);
    put(piece.bytes, format_.section_id);
    put(piece.bytes, ram_flag_eos);
    put_footer(piece.bytes, format_);
    piece.bytes.insert(piece.bytes.end(), tail.begin(), tail.end());
    pieces.push_back(std::move(piece));
    return pieces;
}

} // namespace hotsnap::memory
