// SPDX-License-Identifier: GPL-2.0-or-later
#include "access/access_file.h"

#include "os/file.h"

#include <cstdio>
#include <exception>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

namespace hotsnap::memory {

namespace {

// A regular file only: opening anything else could take for ever.
std::vector<std::byte> read_whole(const std::string &path) {
    const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    struct stat found;
    if (!fd || fstat(fd.get(), &found) != 0 || !S_ISREG(found.st_mode) || found.st_size < 0 ||
        static_cast<size_t>(found.st_size) > AccessMap::most_bytes) {
        return {};
    }
    std::vector<std::byte> bytes(static_cast<size_t>(found.st_size));
    int error = 0;
    if (read_some(fd.get(), bytes, 0, error) < bytes.size()) {
        return {};
    }
    return bytes;
}

} // namespace

AccessMap read_access_file(const std::string &path, uint64_t image, uint64_t image_pages) noexcept {
    try {
        const std::vector<std::byte> bytes = read_whole(path);
        return bytes.empty() ? AccessMap() : AccessMap::decode(bytes, image, image_pages);
    } catch (const std::exception &) {
        return {};
    }
}

bool write_access_file(const std::string &path, const AccessMap &map, uint64_t image) noexcept {
    std::string fresh;
    try {
        const std::vector<std::byte> bytes = map.encode(image);
        fresh = path + "." + std::to_string(getpid());
        const Fd fd(
            open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
        if (!fd) {
            return false;
        }
        write_all(fd.get(), bytes, 0, fresh);
        if (std::rename(fresh.c_str(), path.c_str()) == 0) {
            return true;
        }
    } catch (const std::exception &) {
    }
    if (!fresh.empty()) {
        unlink(fresh.c_str());
    }
    return false;
}

} // namespace hotsnap::memory
