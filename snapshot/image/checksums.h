// SPDX-License-Identifier: GPL-2.0-or-later
//
// Checksums of a file by units, so that a bad place can be named and a sparse file costs little.
// The format of a sums file is described in docs/formats/sums.md.
#ifndef HOTSNAP_IMAGE_CHECKSUMS_H
#define HOTSNAP_IMAGE_CHECKSUMS_H

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace hotsnap::memory {

// XXH3-64, or 0 when all bytes are zero.
uint64_t unit_sum(std::span<const std::byte> bytes);

// The sums of one file while it is being made. Not synchronized: one thread at a time.
class SumsTable {
  public:
    explicit SumsTable(uint64_t unit) : unit_(unit) {}

    uint64_t unit() const { return unit_; }
    uint64_t file_size() const { return file_size_; }
    const std::vector<uint64_t> &sums() const { return sums_; }

    // Units from the old end on count as zero until set.
    void resize(uint64_t file_size);

    // Sums `bytes`, which lie at `offset`, a multiple of the unit; only the last unit may be short.
    void add(uint64_t offset, std::span<const std::byte> bytes);

    // The content of the sums file.
    std::vector<std::byte> encode() const;

    // Throws Error unless `bytes` are a whole sums file.
    static SumsTable decode(std::span<const std::byte> bytes, const std::string &name);

  private:
    uint64_t unit_;
    uint64_t file_size_ = 0;
    std::vector<uint64_t> sums_;
};

// Sums a file without reading its holes. `cancelled` is asked now and then.
SumsTable sum_file(const std::string &path, uint64_t unit, const std::function<bool()> &cancelled);

// Fills an empty sums file, open as `fd`, and makes it durable; returns the XXH3-64 of the file.
uint64_t write_sums(const SumsTable &table, int fd, const std::string &sums_path);

// The first offset at which a file differs from its sums, if there is one.
std::optional<uint64_t> find_mismatch(const std::string &path, const std::string &sums_path,
                                      const std::function<bool()> &cancelled);

// XXH3-64, also when all bytes are zero.
uint64_t bytes_xxh3(std::span<const std::byte> bytes);

// XXH3-64 of a whole file; holes count as the zeros they read as.
uint64_t file_xxh3(const std::string &path);

} // namespace hotsnap::memory
#endif
