// SPDX-License-Identifier: GPL-2.0-or-later
//
// A memory image of which no byte is given out before its checksum was compared (docs/formats/
// sums.md). The checksums themselves are read once and compared with the sum that the bundle's
// manifest has of them; after that, whatever happens to the files is noticed.
#ifndef HOTSNAP_RESTORE_VERIFIED_FILE_H
#define HOTSNAP_RESTORE_VERIFIED_FILE_H

#include "guest/guest_memory.h"
#include "image/checksums.h"
#include "os/file.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace hotsnap::memory {

// Any thread. The unit of comparison is a page of the guest: image and guest divide pages alike.
class VerifiedFile {
  public:
    // What the reader does next, for the kernel: nothing nearby, or the bytes that follow.
    enum class Order { random, sequential };

    // `sums_xxh3`: the XXH3-64 of the sums file. Throws Error.
    VerifiedFile(const std::string &path, const std::string &sums_path, uint64_t sums_xxh3);

    const std::string &path() const { return path_; }
    uint64_t size() const { return sums_.file_size(); }

    // Any range, for what is not guest memory. Throws Error that names the first bad offset.
    std::vector<std::byte> read(uint64_t offset, uint64_t length) const;
    void check(uint64_t offset, uint64_t length) const;

    // Reads whole pages into `out`; `good[i]` tells whether page i was read and compared, and `out`
    // may hold anything for one that was not. Returns what was wrong with the first such page,
    // empty when all are good.
    std::string read_pages(uint64_t offset, std::span<std::byte> out, std::span<bool> good,
                           Order order) const;

  private:
    std::string path_;
    Fd random_;
    Fd sequential_;
    SumsTable sums_;
};

} // namespace hotsnap::memory
#endif
