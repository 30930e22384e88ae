// SPDX-License-Identifier: GPL-2.0-or-later
#include "access/access_map.h"

#include "base/error.h"
#include "image/checksums.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>

namespace hotsnap::memory {

namespace {

constexpr std::array<char, 8> magic = {'H', 'S', 'A', 'C', 'C', 'E', 'S', 'S'};
constexpr uint32_t version = 1;
constexpr uint32_t first_ms = 50;            // end of the first bucket; each next is twice as late
constexpr uint64_t most_buckets = 32;        // more than there are times
constexpr uint32_t last_ms = first_ms << 19; // after the last time that a log can hold

struct Head {
    std::array<char, 8> magic;
    uint32_t version;
    uint32_t buckets;
    uint64_t runs;
    uint64_t image;
    uint64_t body_xxh3;
    std::array<uint64_t, 3> reserved;
};
static_assert(sizeof(Head) == 64);

struct BucketHead {
    uint32_t end_ms;
    uint32_t reserved;
    uint64_t runs;
};
static_assert(sizeof(BucketHead) == 16);
static_assert(sizeof(AccessMap::Run) == 16);
static_assert(std::endian::native == std::endian::little, "the file is little-endian");

template <typename T> void append(std::vector<std::byte> &out, const T &value) {
    const auto bytes = std::as_bytes(std::span(&value, 1));
    out.insert(out.end(), bytes.begin(), bytes.end());
}

// `bytes` loses what is taken; there must be enough.
template <typename T> T take(std::span<const std::byte> &bytes) {
    T value;
    std::memcpy(&value, bytes.data(), sizeof(value));
    bytes = bytes.subspan(sizeof(value));
    return value;
}

uint32_t bucket_end(uint32_t ms) {
    uint64_t end = first_ms;
    while (end <= ms) {
        end *= 2;
    }
    return static_cast<uint32_t>(end);
}

[[noreturn]] void refuse(const std::string &why) {
    throw Error("the list of accesses " + why);
}

AccessMap::Run checked(const AccessMap::Run &run, uint64_t least, uint64_t image_pages) {
    if (run.first < least || run.count == 0 || run.first >= image_pages ||
        run.count > image_pages - run.first) {
        refuse("has pages out of order, or out of the image");
    }
    return run;
}

} // namespace

AccessMap::AccessMap(std::vector<Access> accesses) {
    for (Access &access : accesses) {
        access.ms = bucket_end(access.ms);
    }
    // Of a page that was noted more than once, the earliest time counts.
    std::ranges::sort(accesses, {}, [](const Access &a) { return std::pair(a.page, a.ms); });
    const auto again = std::ranges::unique(accesses, {}, &Access::page);
    accesses.erase(again.begin(), again.end());
    std::ranges::stable_sort(accesses, {}, &Access::ms);
    accesses.resize(std::min<size_t>(accesses.size(), most_pages));
    for (const Access &access : accesses) {
        if (buckets_.empty() || buckets_.back().end_ms != access.ms) {
            buckets_.push_back({access.ms, {}});
        }
        std::vector<Run> &runs = buckets_.back().runs;
        if (!runs.empty() && runs.back().first + runs.back().count == access.page) {
            runs.back().count++;
        } else {
            runs.push_back({access.page, 1});
        }
    }
}

uint64_t AccessMap::pages() const {
    uint64_t sum = 0;
    for (const Bucket &bucket : buckets_) {
        for (const Run &run : bucket.runs) {
            sum += run.count;
        }
    }
    return sum;
}

std::vector<Access> AccessMap::accesses() const {
    std::vector<Access> found;
    for (const Bucket &bucket : buckets_) {
        for (const Run &run : bucket.runs) {
            for (uint64_t i = 0; i < run.count; i++) {
                found.push_back({run.first + i, bucket.end_ms - 1});
            }
        }
    }
    return found;
}

bool AccessMap::merge(const std::vector<Access> &more) {
    std::vector<Access> all = accesses();
    all.insert(all.end(), more.begin(), more.end());
    AccessMap merged(std::move(all));
    const bool changed = merged.buckets_ != buckets_;
    buckets_ = std::move(merged.buckets_);
    return changed;
}

uint64_t AccessMap::window(double pages_per_second) const {
    uint64_t wanted = 0;
    uint64_t most = 0;
    for (const Bucket &bucket : buckets_) {
        for (const Run &run : bucket.runs) {
            wanted += run.count;
        }
        const uint32_t begin_ms = bucket.end_ms <= first_ms ? 0 : bucket.end_ms / 2;
        const double comes = std::max(0.0, pages_per_second) * begin_ms / 1000;
        if (const double lacks = static_cast<double>(wanted) - comes; lacks > 0) {
            most = std::max(most, static_cast<uint64_t>(std::ceil(lacks)));
        }
    }
    return most;
}

std::vector<std::byte> AccessMap::encode(uint64_t image) const {
    std::vector<std::byte> body;
    uint64_t runs = 0;
    for (const Bucket &bucket : buckets_) {
        append(body, BucketHead{bucket.end_ms, 0, bucket.runs.size()});
        runs += bucket.runs.size();
    }
    for (const Bucket &bucket : buckets_) {
        for (const Run &run : bucket.runs) {
            append(body, run);
        }
    }
    std::vector<std::byte> bytes;
    append(bytes, Head{magic,
                       version,
                       static_cast<uint32_t>(buckets_.size()),
                       runs,
                       image,
                       bytes_xxh3(body),
                       {}});
    bytes.insert(bytes.end(), body.begin(), body.end());
    return bytes;
}

AccessMap AccessMap::decode(std::span<const std::byte> bytes, uint64_t image,
                            uint64_t image_pages) {
    if (bytes.size() < sizeof(Head)) {
        refuse("is cut off");
    }
    const Head head = take<Head>(bytes);
    if (head.magic != magic) {
        refuse("is none");
    }
    if (head.version != version) {
        refuse("has version " + std::to_string(head.version));
    }
    if (head.image != image) {
        refuse("is of another image");
    }
    if (head.buckets > most_buckets || head.runs > most_pages ||
        bytes.size() != head.buckets * sizeof(BucketHead) + head.runs * sizeof(Run)) {
        refuse("has another length than it says");
    }
    if (head.body_xxh3 != bytes_xxh3(bytes)) {
        refuse("is damaged");
    }
    AccessMap map;
    std::vector<uint64_t> counts;
    uint64_t runs = 0;
    for (uint32_t i = 0; i < head.buckets; i++) {
        const auto next = take<BucketHead>(bytes);
        if (next.end_ms == 0 || next.end_ms > last_ms ||
            next.end_ms != bucket_end(next.end_ms - 1) ||
            (i > 0 && next.end_ms <= map.buckets_.back().end_ms) || next.runs == 0 ||
            next.runs > head.runs - runs) {
            refuse("has times out of order");
        }
        runs += next.runs;
        counts.push_back(next.runs);
        map.buckets_.push_back({next.end_ms, {}});
    }
    if (runs != head.runs) {
        refuse("has another length than it says");
    }
    for (size_t i = 0; i < counts.size(); i++) {
        uint64_t least = 0;
        for (uint64_t k = 0; k < counts[i]; k++) {
            map.buckets_[i].runs.push_back(checked(take<Run>(bytes), least, image_pages));
            least = map.buckets_[i].runs.back().first + map.buckets_[i].runs.back().count;
        }
    }
    if (map.pages() > most_pages) {
        refuse("has more pages than a guest wants at once");
    }
    return map;
}

} // namespace hotsnap::memory
