// SPDX-License-Identifier: GPL-2.0-or-later
#include "image/checksums.h"

#include "base/error.h"
#include "guest/guest_memory.h"
#include "guest/zero_page.h"
#include "os/file.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_STATIC_LINKING_ONLY // the size of XXH3_state_t
#include <xxhash.h>
#if defined(__x86_64__)
#include <xxh_x86dispatch.h> // the same functions, with the vector instructions that there are
#endif

namespace hotsnap::memory {

namespace {

constexpr std::array<char, 8> magic{'H', 'S', 'S', 'U', 'M', 'S', '1', '\0'};
constexpr uint32_t version = 1;
constexpr size_t header_bytes = 64;
constexpr size_t read_bytes = 4 << 20;

template <typename T> void put_le(std::byte *out, T value) {
    for (size_t i = 0; i < sizeof(T); i++) {
        out[i] = static_cast<std::byte>(static_cast<uint64_t>(value) >> (8 * i));
    }
}

template <typename T> T get_le(const std::byte *in) {
    uint64_t value = 0;
    for (size_t i = 0; i < sizeof(T); i++) {
        value |= static_cast<uint64_t>(in[i]) << (8 * i);
    }
    return static_cast<T>(value);
}

uint64_t size_of(int fd, const std::string &path) {
    struct stat file;
    if (fstat(fd, &file) < 0) {
        throw system_error(errno, "cannot tell the size of " + path);
    }
    if (S_ISBLK(file.st_mode)) { // st_size of a block device is 0
        const off_t end = lseek(fd, 0, SEEK_END);
        if (end < 0) {
            throw system_error(errno, "cannot tell the size of " + path);
        }
        return static_cast<uint64_t>(end);
    }
    return static_cast<uint64_t>(file.st_size);
}

// Reads past the page cache where the file system can.
Fd open_to_read(const std::string &path) {
    Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT));
    if (!fd && errno == EINVAL) {
        fd = Fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    }
    if (!fd) {
        throw system_error(errno, "cannot read " + path);
    }
    return fd;
}

// Reads until `bytes` is full or the file ends; returns the number of bytes read.
size_t read_up_to(int fd, std::span<std::byte> bytes, uint64_t offset, const std::string &path) {
    size_t done = 0;
    for (;;) {
        int error = 0;
        done += read_some(fd, bytes.subspan(done), offset + done, error);
        if (error == 0) {
            return done;
        }
        const int flags = fcntl(fd, F_GETFL);
        if (error != EINVAL || (flags & O_DIRECT) == 0) {
            throw system_error(error,
                               "cannot read " + path + " at " + std::to_string(offset + done));
        }
        // The file opens with O_DIRECT but does not read with it, or its tail is not aligned.
        fcntl(fd, F_SETFL, flags & ~O_DIRECT);
    }
}

// The next byte range at or after `at` that may hold data, in whole units.
std::pair<uint64_t, uint64_t> next_data(int fd, uint64_t at, uint64_t size, uint64_t unit) {
    const off_t data = lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0) {
        return {errno == ENXIO ? size : at, size}; // no more data; or holes are not known here
    }
    const off_t hole = lseek(fd, data, SEEK_HOLE);
    const uint64_t begin = static_cast<uint64_t>(data) / unit * unit;
    const uint64_t end = hole < 0 ? size : (static_cast<uint64_t>(hole) + unit - 1) / unit * unit;
    return {std::max(at, begin), std::min(end, size)};
}

std::vector<std::byte> read_file(const std::string &path) {
    const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) {
        throw system_error(errno, "cannot read " + path);
    }
    std::vector<std::byte> bytes(size_of(fd.get(), path));
    bytes.resize(read_up_to(fd.get(), bytes, 0, path));
    return bytes;
}

} // namespace

uint64_t unit_sum(std::span<const std::byte> bytes) {
    return is_zero(bytes.data(), bytes.size()) ? 0 : XXH3_64bits(bytes.data(), bytes.size());
}

void SumsTable::resize(uint64_t file_size) {
    file_size_ = file_size;
    sums_.resize((file_size + unit_ - 1) / unit_);
}

void SumsTable::add(uint64_t offset, std::span<const std::byte> bytes) {
    for (uint64_t index = offset / unit_; !bytes.empty(); index++) {
        const size_t length = std::min<size_t>(unit_, bytes.size());
        sums_.at(index) = unit_sum(bytes.first(length));
        bytes = bytes.subspan(length);
    }
}

std::vector<std::byte> SumsTable::encode() const {
    std::vector<std::byte> out(header_bytes + sums_.size() * sizeof(uint64_t));
    std::memcpy(out.data(), magic.data(), magic.size());
    put_le(out.data() + 8, version);
    put_le(out.data() + 12, static_cast<uint32_t>(unit_));
    put_le(out.data() + 16, file_size_);
    put_le(out.data() + 24, static_cast<uint64_t>(sums_.size()));
    std::byte *at = out.data() + header_bytes;
    for (const uint64_t sum : sums_) {
        put_le(at, sum);
        at += sizeof(sum);
    }
    return out;
}

SumsTable SumsTable::decode(std::span<const std::byte> bytes, const std::string &name) {
    const auto reject = [&](const std::string &why) {
        throw Error(name + " is not a sums file of this project: " + why);
    };
    if (bytes.size() < header_bytes || std::memcmp(bytes.data(), magic.data(), magic.size()) != 0) {
        reject("it does not begin with the magic HSSUMS1");
    }
    if (get_le<uint32_t>(bytes.data() + 8) != version) {
        reject("its version is not 1");
    }
    SumsTable table(get_le<uint32_t>(bytes.data() + 12));
    const auto size = get_le<uint64_t>(bytes.data() + 16);
    const auto count = get_le<uint64_t>(bytes.data() + 24);
    if (table.unit_ == 0 || count != size / table.unit_ + (size % table.unit_ != 0)) {
        reject("its header contradicts itself");
    }
    if ((bytes.size() - header_bytes) / sizeof(uint64_t) != count ||
        bytes.size() % sizeof(uint64_t) != 0) {
        reject("it is truncated or has trailing bytes");
    }
    table.resize(size);
    for (uint64_t i = 0; i < count; i++) {
        table.sums_[i] = get_le<uint64_t>(bytes.data() + header_bytes + i * sizeof(uint64_t));
    }
    return table;
}

SumsTable sum_file(const std::string &path, uint64_t unit, const std::function<bool()> &cancelled) {
    if (unit == 0 || unit % page_bytes != 0 || unit > read_bytes) {
        throw Error("the unit of checksums must be a multiple of 4096, at most 4 MiB");
    }
    const Fd fd = open_to_read(path);
    const uint64_t size = size_of(fd.get(), path);
    SumsTable table(unit);
    table.resize(size);
    const AlignedBuffer buffer(read_bytes / unit * unit);
    for (uint64_t at = 0; at < size;) {
        const auto [begin, end] = next_data(fd.get(), at, size, unit);
        for (at = begin; at < end;) {
            if (cancelled()) {
                throw Error("cancelled while summing " + path);
            }
            // O_DIRECT insists on a whole page, also at the end of the file.
            const uint64_t padded = (end - at + page_bytes - 1) & ~(page_bytes - 1);
            const size_t want = std::min<size_t>(buffer.bytes().size(), padded);
            const size_t got = read_up_to(fd.get(), buffer.bytes().first(want), at, path);
            if (got < std::min<uint64_t>(want, size - at)) {
                throw Error(path + " became shorter while it was read");
            }
            const size_t summed = std::min<size_t>(got, end - at);
            table.add(at, buffer.bytes().first(summed));
            at += summed;
        }
        at = std::max(at, end);
    }
    return table;
}

uint64_t write_sums(const SumsTable &table, int fd, const std::string &sums_path) {
    const std::vector<std::byte> bytes = table.encode();
    write_all(fd, bytes, 0, sums_path);
    if (fsync(fd) < 0) {
        throw Error(write_failure(errno, sums_path));
    }
    sync_directory_of(sums_path);
    return XXH3_64bits(bytes.data(), bytes.size());
}

std::optional<uint64_t> find_mismatch(const std::string &path, const std::string &sums_path,
                                      const std::function<bool()> &cancelled) {
    const SumsTable expected = SumsTable::decode(read_file(sums_path), sums_path);
    const SumsTable found = sum_file(path, expected.unit(), cancelled);
    const auto [left, right] = std::ranges::mismatch(expected.sums(), found.sums());
    if (left != expected.sums().end() && right != found.sums().end()) {
        return static_cast<uint64_t>(left - expected.sums().begin()) * expected.unit();
    }
    if (expected.file_size() != found.file_size()) {
        return std::min(expected.file_size(), found.file_size());
    }
    return std::nullopt;
}

uint64_t bytes_xxh3(std::span<const std::byte> bytes) {
    return XXH3_64bits(bytes.data(), bytes.size());
}

uint64_t file_xxh3(const std::string &path) {
    const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) {
        throw system_error(errno, "cannot read " + path);
    }
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    std::vector<std::byte> buffer(1 << 20);
    uint64_t at = 0;
    while (const size_t n = read_up_to(fd.get(), buffer, at, path)) {
        XXH3_64bits_update(&state, buffer.data(), n);
        at += n;
    }
    return XXH3_64bits_digest(&state);
}

} // namespace hotsnap::memory
