// SPDX-License-Identifier: GPL-2.0-or-later
#include "image/image_dump.h"

#include "base/error.h"
#include "guest/zero_page.h"
#include "os/file.h"

#include <cerrno>
#include <unistd.h>

namespace hotsnap::memory {

void dump_image(const GuestMemory &memory, const ImageLayout &layout, const std::string &path) {
    bool direct = false;
    const Fd fd = create_exclusive(path, direct);
    std::vector<bool> data(memory.pages());
    try {
        for (const MemoryBlock &block : memory.blocks()) {
            for (uint64_t page = 0; page < block.pages(); page++) {
                const std::span bytes{block.host + page * page_bytes, page_bytes};
                if (!is_zero(bytes.data(), bytes.size())) {
                    write_all(fd.get(), bytes, layout.page_offset(block, page), path);
                    data[block.first_page + page] = true;
                }
            }
        }
        const auto pieces = layout.metadata([&](uint64_t page) { return data[page]; }, {});
        for (const ImageLayout::Piece &piece : pieces) {
            write_all(fd.get(), piece.bytes, piece.offset, path);
        }
        if (ftruncate(fd.get(), static_cast<off_t>(ImageLayout::size(pieces))) < 0) {
            throw Error(write_failure(errno, path));
        }
    } catch (...) {
        unlink(path.c_str());
        throw;
    }
}

} // namespace hotsnap::memory
