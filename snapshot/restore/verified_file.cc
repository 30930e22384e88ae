// SPDX-License-Identifier: GPL-2.0-or-later
#include "restore/verified_file.h"

#include "base/error.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <memory>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

namespace hotsnap::memory {

namespace {

constexpr uint64_t check_bytes = 1 << 20;
constexpr const char *remedy = "; 'hotsnap verify' lists all damage; restore another snapshot, or "
                               "put an undamaged copy of the file back";

Fd open_to_read(const std::string &path, int advice) {
    Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) {
        throw system_error(errno, "cannot read " + path);
    }
    posix_fadvise(fd.get(), 0, 0, advice);
    return fd;
}

std::string text_of(int error) {
    return error == 0 ? "the file ends there" : std::generic_category().message(error);
}

std::string at_offset(uint64_t offset) {
    return " at offset " + std::to_string(offset);
}

SumsTable read_sums(const std::string &path, uint64_t xxh3) {
    const Fd fd = open_to_read(path, POSIX_FADV_SEQUENTIAL);
    struct stat file;
    if (fstat(fd.get(), &file) < 0) {
        throw system_error(errno, "cannot tell the size of " + path);
    }
    std::vector<std::byte> bytes(static_cast<size_t>(file.st_size));
    int error;
    bytes.resize(read_some(fd.get(), bytes, 0, error));
    if (error != 0) {
        throw system_error(error, "cannot read " + path);
    }
    if (bytes_xxh3(bytes) != xxh3) {
        throw Error(path + " is not the file that the manifest describes" + remedy);
    }
    SumsTable table = SumsTable::decode(bytes, path);
    if (table.unit() != page_bytes) {
        throw Error(path + " has checksums of " + std::to_string(table.unit()) +
                    " bytes; pages can be checked only one by one");
    }
    return table;
}

} // namespace

VerifiedFile::VerifiedFile(const std::string &path, const std::string &sums_path,
                           uint64_t sums_xxh3)
    : path_(path), random_(open_to_read(path, POSIX_FADV_RANDOM)),
      sequential_(open_to_read(path, POSIX_FADV_SEQUENTIAL)),
      sums_(read_sums(sums_path, sums_xxh3)) {
    struct stat file;
    if (fstat(random_.get(), &file) < 0) {
        throw system_error(errno, "cannot tell the size of " + path);
    }
    if (static_cast<uint64_t>(file.st_size) != size()) {
        throw Error(path + " has " + std::to_string(file.st_size) + " bytes instead of " +
                    std::to_string(size()) + remedy);
    }
}

std::vector<std::byte> VerifiedFile::read(uint64_t offset, uint64_t length) const {
    if (offset > size() || length > size() - offset) {
        throw Error(path_ + " is damaged: something of " + std::to_string(length) +
                    " bytes is to lie" + at_offset(offset) + ", past its end");
    }
    const uint64_t skipped = offset % page_bytes;
    const uint64_t begin = offset - skipped;
    const uint64_t end =
        std::min(size(), (offset + length + page_bytes - 1) / page_bytes * page_bytes);
    std::vector<std::byte> bytes(end - begin);
    int error;
    const size_t got = read_some(random_.get(), bytes, begin, error);
    if (got < bytes.size()) {
        throw Error("cannot read " + path_ + at_offset(begin + got) + ": " + text_of(error) +
                    remedy);
    }
    for (uint64_t at = begin; at < end; at += page_bytes) {
        const uint64_t unit = std::min(page_bytes, end - at);
        if (unit_sum(std::span(bytes).subspan(at - begin, unit)) != sums_.sums()[at / page_bytes]) {
            throw Error(path_ + " is damaged" + at_offset(at) + ": wrong checksum" + remedy);
        }
    }
    bytes.resize(skipped + length);
    bytes.erase(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(skipped));
    return bytes;
}

void VerifiedFile::check(uint64_t offset, uint64_t length) const {
    while (length > 0) {
        const uint64_t some = std::min(length, check_bytes);
        read(offset, some);
        offset += some;
        length -= some;
    }
}

std::string VerifiedFile::read_pages(uint64_t offset, std::span<std::byte> out,
                                     std::span<bool> good, Order order) const {
    const int fd = order == Order::random ? random_.get() : sequential_.get();
    std::string wrong;
    int error;
    size_t got = read_some(fd, out, offset, error);
    for (size_t i = 0; i < good.size(); i++) {
        const uint64_t at = i * page_bytes;
        const std::span<std::byte> page = out.subspan(at, page_bytes);
        if (got < at + page_bytes) { // one bad place must not hide the pages behind it
            const size_t some = read_some(fd, page, offset + at, error);
            got = some == page_bytes ? at + page_bytes : 0;
        }
        const bool whole = got >= at + page_bytes;
        good[i] = whole && unit_sum(page) == sums_.sums().at((offset + at) / page_bytes);
        if (!good[i] && wrong.empty()) {
            wrong = whole ? "wrong checksum" : text_of(error);
        }
    }
    return wrong;
}

} // namespace hotsnap::memory
