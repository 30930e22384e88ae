// SPDX-License-Identifier: GPL-2.0-or-later
#include "os/file.h"

#include "base/error.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <new>
#include <sys/statvfs.h>
#include <unistd.h>

namespace hotsnap::memory {

namespace {

std::string directory_of(const std::string &path) {
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) {
        return ".";
    }
    return slash == 0 ? "/" : path.substr(0, slash);
}

} // namespace

void Fd::reset() {
    if (fd_ >= 0) {
        close(fd_);
        fd_ = -1;
    }
}

AlignedBuffer::AlignedBuffer(size_t size)
    : memory_(static_cast<std::byte *>(std::aligned_alloc(4096, size)), &std::free), size_(size) {
    if (!memory_) {
        throw std::bad_alloc();
    }
}

Fd create_exclusive(const std::string &path, bool &direct) {
    const int flags = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC;
    int fd = -1;
    if (direct) {
        fd = open(path.c_str(), flags | O_DIRECT, 0600);
        if (fd < 0 && errno == EINVAL) {
            direct = false;
            // Some kernels create the file before they look at O_DIRECT. It was not there before
            // (O_EXCL would have said so), hence it is ours to remove.
            unlink(path.c_str());
        }
    }
    if (fd < 0 && !direct) {
        fd = open(path.c_str(), flags, 0600);
    }
    if (fd < 0) {
        if (errno == EEXIST) {
            throw Error(path + " already exists; choose another name or remove it first");
        }
        throw system_error(errno, "cannot create " + path,
                           "check that the directory exists and may be written");
    }
    return Fd(fd);
}

size_t read_some(int fd, std::span<std::byte> bytes, uint64_t offset, int &error) {
    size_t done = 0;
    error = 0;
    while (done < bytes.size()) {
        const ssize_t n =
            pread(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
        if (n > 0) {
            done += static_cast<size_t>(n);
        } else if (n == 0 || errno != EINTR) {
            error = n == 0 ? 0 : errno;
            break;
        }
    }
    return done;
}

void write_all(int fd, std::span<const std::byte> bytes, uint64_t offset, const std::string &path) {
    while (!bytes.empty()) {
        // Linux transfers at most 0x7ffff000 bytes a call.
        const size_t some = std::min<size_t>(bytes.size(), 1u << 30);
        const ssize_t n = pwrite(fd, bytes.data(), some, static_cast<off_t>(offset));
        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            throw Error(write_failure(errno, path));
        }
        bytes = bytes.subspan(static_cast<size_t>(n));
        offset += static_cast<uint64_t>(n);
    }
}

void sync_directory_of(const std::string &path) {
    const std::string directory = directory_of(path);
    const Fd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd || fsync(fd.get()) < 0) {
        // EINVAL: a file system that has nothing to sync in a directory.
        if (!fd || errno != EINVAL) {
            throw system_error(errno, "cannot make the entry of " + path + " durable");
        }
    }
}

uint64_t free_bytes_for(const std::string &path) {
    struct statvfs fs;
    const std::string directory = directory_of(path);
    if (statvfs(directory.c_str(), &fs) < 0) {
        throw system_error(errno, "cannot tell the free space of " + directory,
                           "check that the directory exists");
    }
    if (fs.f_blocks == 0) {
        return ~uint64_t{0};
    }
    return static_cast<uint64_t>(fs.f_bavail) * fs.f_frsize;
}

std::string write_failure(int errnum, const std::string &path) {
    std::string hint;
    switch (errnum) {
    case ENOSPC:
    case EDQUOT:
        hint = "free space there, or choose another folder, and take the snapshot again";
        break;
    case EFBIG:
        hint = "the file may not grow that large; check the file size limit (ulimit -f) and the "
               "file system";
        break;
    default:
        hint = "check the storage (dmesg) and take the snapshot again";
    }
    return system_error(errnum, "cannot write " + path, hint).what();
}

} // namespace hotsnap::memory
