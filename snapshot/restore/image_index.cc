// SPDX-License-Identifier: GPL-2.0-or-later
#include "restore/image_index.h"

#include "base/error.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>

namespace hotsnap::memory {

namespace {

// QEMU's head of the stream has a few hundred bytes; it ends where the section "ram" begins.
constexpr uint64_t longest_head = 64 << 10;
constexpr uint64_t ram_flag_mem_size = 0x04;
constexpr uint32_t ram_version = 4;
constexpr uint32_t mapped_ram_version = 1;

class Reader {
  public:
    Reader(const VerifiedFile &file, uint64_t at) : file_(file), at_(at) {}

    uint64_t at() const { return at_; }
    void seek(uint64_t at) { at_ = at; }
    std::vector<std::byte> bytes(uint64_t length) {
        std::vector<std::byte> out = file_.read(at_, length);
        at_ += length;
        return out;
    }
    template <typename T> T number() { // big-endian
        uint64_t value = 0;
        for (const std::byte b : bytes(sizeof(T))) {
            value = value << 8 | static_cast<uint64_t>(b);
        }
        return static_cast<T>(value);
    }
    std::string text() {
        const std::vector<std::byte> out = bytes(number<uint8_t>());
        return {reinterpret_cast<const char *>(out.data()), out.size()};
    }

  private:
    const VerifiedFile &file_;
    uint64_t at_;
};

[[noreturn]] void reject(const VerifiedFile &file, const std::string &why) {
    throw Error(file.path() + " is not a memory image that can be loaded on demand: " + why +
                "; load it in full");
}

// Just behind the name of the section.
uint64_t find_ram(const VerifiedFile &file, uint32_t id) {
    std::array<std::byte, 9> start{std::byte{0x01}};
    for (size_t i = 0; i < 4; i++) {
        start[1 + i] = static_cast<std::byte>(id >> (24 - 8 * i));
    }
    std::memcpy(&start[5], "\3ram", 4);
    const std::vector<std::byte> head = file.read(0, std::min(file.size(), longest_head));
    const auto found = std::ranges::search(head, start);
    if (found.empty()) {
        reject(file, "its head is not one of this project's images");
    }
    return static_cast<uint64_t>(found.end() - head.begin());
}

ImageBlock read_block(const VerifiedFile &file, Reader &reader) {
    ImageBlock block;
    block.idstr = reader.text();
    block.length = reader.number<uint64_t>();
    const auto version = reader.number<uint32_t>();
    const auto page_size = reader.number<uint64_t>();
    const auto bitmap_offset = reader.number<uint64_t>();
    block.pages_offset = reader.number<uint64_t>();
    const auto damaged = [&](const char *why) {
        reject(file, "block \"" + block.idstr + "\": " + why);
    };
    if (version != mapped_ram_version || page_size != page_bytes) {
        damaged("its head has another version or page size");
    }
    if (block.length == 0 || block.length % page_bytes != 0 ||
        block.pages_offset % page_bytes != 0) {
        damaged("it is not made of whole pages");
    }
    const uint64_t words = block.pages() / 64 + (block.pages() % 64 != 0);
    // In this order, so that no sum overflows.
    if (block.pages_offset > file.size() || block.length > file.size() - block.pages_offset ||
        bitmap_offset < reader.at() || bitmap_offset > block.pages_offset ||
        words * sizeof(uint64_t) > block.pages_offset - bitmap_offset) {
        damaged("its places in the file are not possible");
    }
    reader.seek(bitmap_offset);
    const std::vector<std::byte> bitmap = reader.bytes(words * sizeof(uint64_t));
    block.bitmap.resize(words);
    std::memcpy(block.bitmap.data(), bitmap.data(), bitmap.size());
    if (block.pages() % 64 != 0 && block.bitmap.back() >> (block.pages() % 64) != 0) {
        damaged("it has pages past its end");
    }
    reader.seek(block.pages_offset + block.length);
    return block;
}

} // namespace

std::vector<ImageBlock> read_index(const VerifiedFile &file, uint32_t section_id) {
    Reader reader(file, find_ram(file, section_id));
    const bool known = reader.number<uint32_t>() == 0 && reader.number<uint32_t>() == ram_version;
    const auto total = reader.number<uint64_t>();
    if (!known || total % page_bytes != ram_flag_mem_size) {
        reject(file, "its section \"ram\" has another version");
    }
    std::vector<ImageBlock> blocks;
    std::set<std::string> names;
    for (uint64_t left = total - ram_flag_mem_size; left > 0;) {
        blocks.push_back(read_block(file, reader));
        if (blocks.back().length > left || !names.insert(blocks.back().idstr).second) {
            reject(file, "its list of blocks contradicts itself");
        }
        left -= blocks.back().length;
    }
    file.check(reader.at(), file.size() - reader.at());
    return blocks;
}

} // namespace hotsnap::memory
