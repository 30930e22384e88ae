// SPDX-License-Identifier: GPL-2.0-or-later
#include "mapped_ram.h"

#include <cstring>
#include <fstream>
#include <stdexcept>
#include <sys/stat.h>

namespace hotsnap::memory::test {

namespace {

class Stream {
  public:
    explicit Stream(const std::string &path) : file_(path, std::ios::binary) {
        if (!file_) {
            throw std::runtime_error("cannot open " + path);
        }
    }

    uint64_t be(size_t bytes) {
        uint64_t value = 0;
        for (const std::byte b : get(bytes)) {
            value = value << 8 | static_cast<uint64_t>(b);
        }
        return value;
    }
    std::vector<std::byte> get(size_t bytes) {
        std::vector<std::byte> out(bytes);
        file_.read(reinterpret_cast<char *>(out.data()), static_cast<std::streamsize>(bytes));
        if (static_cast<size_t>(file_.gcount()) != bytes) {
            throw std::runtime_error("the stream is too short");
        }
        return out;
    }
    std::string counted_string() {
        const std::vector<std::byte> bytes = get(be(1));
        return {reinterpret_cast<const char *>(bytes.data()), bytes.size()};
    }
    uint64_t at() { return static_cast<uint64_t>(file_.tellg()); }
    void seek(uint64_t offset) { file_.seekg(static_cast<std::streamoff>(offset)); }
    std::vector<std::byte> rest() {
        std::vector<std::byte> out;
        for (char c; file_.get(c);) {
            out.push_back(static_cast<std::byte>(c));
        }
        return out;
    }

  private:
    std::ifstream file_;
};

void expect(bool good, const char *what) {
    if (!good) {
        throw std::runtime_error(std::string("not loadable: ") + what);
    }
}

void footer_of(Stream &stream, bool footer, uint32_t section_id) {
    if (footer) {
        expect(stream.be(1) == 0x7e, "section footer missing");
        expect(stream.be(4) == section_id, "footer of another section");
    }
}

LoadedBlock load_block(Stream &stream, uint64_t length) {
    LoadedBlock block;
    expect(stream.be(4) == 1, "mapped-ram version");
    const uint64_t page_size = stream.be(8);
    expect(page_size == 4096, "page size");
    block.bitmap_offset = stream.be(8);
    block.pages_offset = stream.be(8);
    expect(block.pages_offset % (1 << 20) == 0, "pages not at 1 MiB");
    // A writer in QEMU puts the bitmap right here.
    expect(block.bitmap_offset == stream.at(), "bitmap not behind its header");
    const uint64_t pages = length / page_size;
    const uint64_t bitmap_bytes = (pages + 63) / 64 * 8;
    stream.seek(block.bitmap_offset);
    const std::vector<std::byte> bitmap = stream.get(bitmap_bytes);
    expect(stream.at() <= block.pages_offset, "bitmap overlaps the pages");
    block.memory.resize(length);
    for (uint64_t page = 0; page < bitmap_bytes * 8; page++) {
        uint64_t word;
        std::memcpy(&word, bitmap.data() + page / 64 * 8, 8);
        if ((word >> (page % 64) & 1) == 0) {
            continue;
        }
        expect(page < pages, "bit set past the end of the block");
        stream.seek(block.pages_offset + page * page_size);
        const std::vector<std::byte> bytes = stream.get(page_size);
        std::memcpy(block.memory.data() + page * page_size, bytes.data(), page_size);
        block.bits_set++;
    }
    stream.seek(block.pages_offset + length);
    return block;
}

} // namespace

LoadedImage load_image(const std::string &path, const std::vector<std::byte> &head, bool footer,
                       uint32_t section_id) {
    LoadedImage image;
    struct stat file;
    expect(stat(path.c_str(), &file) == 0, "no file");
    image.file_size = static_cast<uint64_t>(file.st_size);
    image.allocated = static_cast<uint64_t>(file.st_blocks) * 512;
    Stream stream(path);
    expect(stream.get(head.size()) == head, "head");
    expect(stream.be(1) == 0x01, "section start");
    expect(stream.be(4) == section_id, "section id");
    expect(stream.counted_string() == "ram", "section name");
    expect(stream.be(4) == 0, "instance");
    expect(stream.be(4) == 4, "version");
    const uint64_t announced = stream.be(8);
    expect((announced & 4095) == 4, "not RAM_SAVE_FLAG_MEM_SIZE");
    for (uint64_t left = announced & ~uint64_t{4095}; left > 0;) {
        const std::string name = stream.counted_string();
        const uint64_t length = stream.be(8);
        expect(length <= left, "blocks longer than announced");
        left -= length;
        image.order.push_back(name);
        image.blocks[name] = load_block(stream, length);
    }
    expect(stream.be(8) == 0x10, "RAM_SAVE_FLAG_EOS of the start");
    footer_of(stream, footer, section_id);
    expect(stream.be(1) == 0x03, "section end");
    expect(stream.be(4) == section_id, "section id at the end");
    expect(stream.be(8) == 0x10, "RAM_SAVE_FLAG_EOS of the end");
    footer_of(stream, footer, section_id);
    image.tail = stream.rest();
    return image;
}

uint64_t LoadedImage::bits_set() const {
    uint64_t sum = 0;
    for (const auto &[name, block] : blocks) {
        sum += block.bits_set;
    }
    return sum;
}

uint64_t torn_pages(const std::vector<std::byte> &memory, const std::vector<std::byte> &image) {
    uint64_t torn = 0;
    for (size_t at = 0; at < memory.size(); at += 4096) {
        torn += !std::equal(memory.begin() + static_cast<ptrdiff_t>(at),
                            memory.begin() + static_cast<ptrdiff_t>(at + 4096),
                            image.begin() + static_cast<ptrdiff_t>(at));
    }
    return torn;
}

} // namespace hotsnap::memory::test
