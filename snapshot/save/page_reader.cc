// SPDX-License-Identifier: GPL-2.0-or-later
#include "save/page_reader.h"

#include "base/error.h"
#include "guest/zero_page.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <linux/magic.h>
#include <string_view>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

namespace hotsnap::memory {

namespace {

// Documentation/admin-guide/mm/pagemap.rst
constexpr uint64_t pagemap_present_or_swapped = uint64_t{3} << 62;
constexpr uint64_t pagemap_soft_dirty = uint64_t{1} << 55;

bool on_tmpfs(int fd) {
    struct statfs fs;
    return fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC &&
           (lseek(fd, 0, SEEK_DATA) >= 0 || errno == ENXIO);
}

void read_pages(const MemoryBlock &block, uint64_t first, uint64_t count, std::byte *out) {
    uint64_t offset = block.fd_offset + first * page_bytes;
    size_t left = count * page_bytes;
    while (left > 0) {
        const ssize_t n = pread(block.fd, out, left, static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            throw system_error(n < 0 ? errno : EIO,
                               "cannot read memory block \"" + block.idstr + "\"",
                               "the host memory may be broken (dmesg)");
        }
        offset += static_cast<uint64_t>(n);
        out += n;
        left -= static_cast<size_t>(n);
    }
}

uint64_t anonymous_bytes_of_process() {
    uint64_t kib = 0;
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        for (const std::string_view name : {"RssAnon:", "VmSwap:"}) {
            if (line.starts_with(name)) {
                kib += std::strtoull(line.c_str() + name.size(), nullptr, 10);
            }
        }
    }
    return kib == 0 ? ~uint64_t{0} : kib * 1024; // 0: this kernel does not tell
}

} // namespace

PageReader::PageReader(const GuestMemory &memory, std::optional<uint64_t> absent_pagemap_entry)
    : memory_(memory), absent_pagemap_entry_(absent_pagemap_entry),
      pagemap_(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)) {
    for (const MemoryBlock &block : memory.blocks()) {
        const bool shared_file = block.shared && block.fd >= 0;
        Way way = Way::plain;
        if (block.huge()) {
            way = shared_file ? Way::pread : Way::plain;
        } else if (shared_file) {
            way = on_tmpfs(block.fd) ? Way::seek : Way::plain;
        } else if (!block.shared && pagemap_) {
            way = block.fd < 0         ? Way::pagemap
                  : on_tmpfs(block.fd) ? Way::pagemap_and_seek
                                       : Way::plain;
        }
        ways_.push_back(way);
    }
}

PageReader::Way PageReader::way_of(const MemoryBlock &block) const {
    return ways_[static_cast<size_t>(&block - memory_.blocks().data())];
}

void PageReader::find_absent(const PageRun &run, std::vector<bool> &absent) const {
    switch (way_of(*run.block)) {
    case Way::pagemap:
        find_absent_by_pagemap(run, absent);
        break;
    case Way::seek:
        find_absent_by_seek(run, absent);
        break;
    case Way::pagemap_and_seek: {
        find_absent_by_pagemap(run, absent);
        std::vector<bool> in_file(run.count);
        find_absent_by_seek(run, in_file);
        for (size_t i = 0; i < absent.size(); i++) {
            absent[i] = absent[i] && in_file[i];
        }
        break;
    }
    case Way::pread:
    case Way::plain:
        break;
    }
}

bool PageReader::absent_entry(uint64_t entry) const {
    return (entry & pagemap_present_or_swapped) == 0 ||
           (absent_pagemap_entry_ && ((entry ^ *absent_pagemap_entry_) & ~pagemap_soft_dirty) == 0);
}

void PageReader::find_absent_by_pagemap(const PageRun &run, std::vector<bool> &absent) const {
    std::array<uint64_t, 512> entries;
    for (uint64_t done = 0; done < run.count;) {
        const uint64_t some = std::min<uint64_t>(entries.size(), run.count - done);
        const uint64_t number = reinterpret_cast<uint64_t>(run.host()) / page_bytes + done;
        const ssize_t bytes = pread(pagemap_.get(), entries.data(), some * sizeof(uint64_t),
                                    static_cast<off_t>(number * sizeof(uint64_t)));
        if (bytes <= 0) {
            return; // unknown: the rest is read, which is always right
        }
        const uint64_t known = static_cast<uint64_t>(bytes) / sizeof(uint64_t);
        for (uint64_t i = 0; i < known; i++) {
            absent[done + i] = absent_entry(entries[i]);
        }
        done += known;
    }
}

// mincore finds the candidates fast, but these include swapped pages; SEEK_DATA tells those apart.
// It is asked at candidates only, where it jumps over the hole. Asked for the end of a piece of
// data (SEEK_HOLE), the kernel would walk all of it, which for full memory is O(RAM) a question.
void PageReader::find_absent_by_seek(const PageRun &run, std::vector<bool> &absent) const {
    const MemoryBlock &block = *run.block;
    const uint64_t start = block.fd_offset + run.first * page_bytes;
    std::vector<unsigned char> resident(run.count);
    if (mincore(run.host(), run.bytes(), resident.data()) < 0) {
        return; // unknown: everything is read, which is always right
    }
    for (uint64_t i = 0; i < run.count;) {
        if ((resident[i] & 1) != 0) {
            i++;
            continue;
        }
        const off_t found = lseek(block.fd, static_cast<off_t>(start + i * page_bytes), SEEK_DATA);
        if (found < 0 && errno != ENXIO) {
            return;
        }
        // ENXIO: no data from here to the end of the file. A page with some data is not absent.
        const uint64_t data =
            found < 0 ? run.count
                      : std::min(run.count, (static_cast<uint64_t>(found) - start) / page_bytes);
        std::fill(absent.begin() + static_cast<ptrdiff_t>(i),
                  absent.begin() + static_cast<ptrdiff_t>(data), true);
        i = data + 1; // the page at `data`, if it is in the run, is not absent
    }
}

bool PageReader::looks_zero(const MemoryBlock &block, uint64_t page) const {
    const Way way = way_of(block);
    return way != Way::pread && way != Way::plain &&
           is_zero(block.host + page * page_bytes, page_bytes);
}

GroupMask PageReader::copy(const MemoryBlock &block, uint64_t first, GroupMask mask,
                           Slot slot) const {
    unsigned nonzero = 0;
    const bool by_file = way_of(block) == Way::pread;
    if (by_file) {
        // Huge pages are claimed whole, so the mask is one run from the start of the group.
        read_pages(block, first, static_cast<uint64_t>(std::bit_width(unsigned{mask})), slot);
    }
    for (unsigned left = mask; left != 0; left &= left - 1) {
        const unsigned i = static_cast<unsigned>(std::countr_zero(left));
        std::byte *copy = slot + i * page_bytes;
        const std::byte *page = by_file ? copy : block.host + (first + i) * page_bytes;
        if (is_zero(page, page_bytes)) {
            continue;
        }
        if (!by_file) {
            std::memcpy(copy, page, page_bytes);
        }
        nonzero |= 1u << i;
    }
    return static_cast<GroupMask>(nonzero);
}

// Asking about each page would take as long as a pass over all memory. The kernel's own accounts
// are at hand: those of the process for anonymous memory, those of the file for shared memory.
uint64_t PageReader::resident_bytes(uint64_t not_guest) const {
    uint64_t anonymous = 0;
    uint64_t others = 0;
    for (const MemoryBlock &block : memory_.blocks()) {
        struct stat file;
        if (way_of(block) == Way::pagemap) {
            anonymous += block.length;
        } else if ((way_of(block) == Way::pread || way_of(block) == Way::seek) &&
                   fstat(block.fd, &file) == 0) {
            others += std::min(static_cast<uint64_t>(file.st_blocks) * 512, block.length);
        } else {
            others += block.length;
        }
    }
    const uint64_t process = anonymous_bytes_of_process();
    return std::min(anonymous, process - std::min(process, not_guest)) + others;
}

} // namespace hotsnap::memory
