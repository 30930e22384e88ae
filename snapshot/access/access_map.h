// SPDX-License-Identifier: GPL-2.0-or-later
//
// The working set of a snapshot: pages by the time after the cut at which the guest wants them.
// Times are divided into buckets, and within a bucket pages lie in the order of the file: which
// pages a guest wants is nearly the same each time, but not in which order. Pure.
#ifndef HOTSNAP_ACCESS_ACCESS_MAP_H
#define HOTSNAP_ACCESS_ACCESS_MAP_H

#include "access/access_log.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace hotsnap::memory {

class AccessMap {
  public:
    struct Run {
        uint64_t first = 0; // page of the image
        uint64_t count = 0;
        bool operator==(const Run &) const = default;
    };
    struct Bucket {
        uint32_t end_ms = 0;   // of the time after the cut
        std::vector<Run> runs; // ascending, not touching one another
        bool operator==(const Bucket &) const = default;
    };

    AccessMap() = default;
    explicit AccessMap(std::vector<Access> accesses);

    const std::vector<Bucket> &buckets() const { return buckets_; }
    uint64_t pages() const; // each counts once for every bucket that has it
    bool empty() const { return buckets_.empty(); }
    std::vector<Access> accesses() const; // each at the end of its bucket's time

    // Adds accesses; a page keeps its earliest time, and the latest pages are left out when there
    // are too many. False if they say nothing new.
    bool merge(const std::vector<Access> &accesses);

    // How many of the pages must be there before the guest starts, so that loading them in order,
    // at this rate, stays ahead of it: the elastic window of the paper. With a start at time 0,
    // window + rate * t pages are there at time t. All pages of a bucket must be, when its time
    // begins: within a bucket the guest's order is unknown.
    uint64_t window(double pages_per_second) const;

    // The content of a file (docs/formats/access.md). `image`: the XXH3-64 of the image's sums.
    std::vector<std::byte> encode(uint64_t image) const;

    // Throws Error unless `bytes` are a whole file, and of this image of `image_pages` pages.
    static AccessMap decode(std::span<const std::byte> bytes, uint64_t image, uint64_t image_pages);

    // Limits, also of what a file can make this program do: 4 GiB of pages, and the bytes for them.
    static constexpr uint64_t most_pages = 1 << 20;
    static constexpr size_t most_bytes = most_pages * sizeof(Run) + 4096;

  private:
    std::vector<Bucket> buckets_;
};

} // namespace hotsnap::memory
#endif
