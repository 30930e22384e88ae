// SPDX-License-Identifier: GPL-2.0-or-later
//
// File descriptors with owners, and the few file operations this library needs, with errors that
// name the path.
#ifndef HOTSNAP_OS_FILE_H
#define HOTSNAP_OS_FILE_H

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

namespace hotsnap::memory {

class Fd {
  public:
    Fd() = default;
    explicit Fd(int fd) : fd_(fd) {}
    Fd(Fd &&other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Fd &operator=(Fd &&other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~Fd() { reset(); }

    int get() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }
    void reset();

  private:
    int fd_ = -1;
};

// Memory that O_DIRECT accepts.
class AlignedBuffer {
  public:
    explicit AlignedBuffer(size_t size);
    std::span<std::byte> bytes() const { return {memory_.get(), size_}; }

  private:
    std::unique_ptr<std::byte, void (*)(void *)> memory_;
    size_t size_;
};

// Creates a file of mode 0600 that must not exist. `direct` on entry: try O_DIRECT first; on
// return: whether the file is open with it.
Fd create_exclusive(const std::string &path, bool &direct);

// Reads until `bytes` is full, the file ends, or an error comes, which is then not 0; returns the
// number of bytes read.
size_t read_some(int fd, std::span<std::byte> bytes, uint64_t offset, int &error);

// Writes all of `bytes` at `offset`; `path` is for the message.
void write_all(int fd, std::span<const std::byte> bytes, uint64_t offset, const std::string &path);

// Makes the directory entry of `path` durable.
void sync_directory_of(const std::string &path);

// Bytes an unprivileged process can still write to the file system that will hold `path`; the
// largest number there is for a file system that does not tell.
uint64_t free_bytes_for(const std::string &path);

// The message for the user about a failed write, with advice.
std::string write_failure(int errnum, const std::string &path);

} // namespace hotsnap::memory
#endif
