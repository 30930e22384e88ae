// SPDX-License-Identifier: GPL-2.0-or-later
//
// Real memory to snapshot, and threads that write to it like a guest.
#pragma once

#include "guest/guest_memory.h"
#include "hotsnap/snapshot.h"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace hotsnap::memory::test {

enum class Kind { anonymous, memfd, private_memfd, huge_memfd, huge_anonymous };

// One mapping. When the machine cannot give it, usable() is false and why() says why.
class HugePages;

class Region {
  public:
    Region(std::string name, Kind kind, uint64_t length);
    ~Region();
    Region(const Region &) = delete;
    Region &operator=(const Region &) = delete;

    bool usable() const { return memory_ != nullptr; }
    const std::string &why() const { return why_; }
    std::byte *memory() const { return memory_; }
    uint64_t length() const { return length_; }
    hs_ram_block block() const;

    // Gives each of `count` pages, from `first` on, content that no other page has.
    void fill(uint64_t first, uint64_t count);
    std::vector<std::byte> copy() const { return {memory_, memory_ + length_}; }

    // Bytes that have memory behind them (shared: of the file).
    uint64_t populated() const;

  private:
    std::shared_ptr<HugePages> huge_pages_; // given back after the memory
    std::string name_;
    Kind kind_;
    uint64_t length_;
    std::byte *memory_ = nullptr;
    int fd_ = -1;
    std::string why_;
};

// As the library sees it.
MemoryBlock block_of(const Region &region);

// One access of a guest. As with a real guest, the library sees and orders it through the kernel
// only, so no sanitizer sees it either.
void guest_write(std::byte *at, uint8_t value);
uint8_t guest_read(const std::byte *at);

// Threads that write to the regions until destroyed; they can be paused like vCPUs.
class Writers {
  public:
    // `span`: the part of each region that is written to, from its start.
    Writers(std::vector<const Region *> regions, int threads, uint64_t span);
    ~Writers();

    void pause(); // returns when none writes
    void resume();
    uint64_t writes() const { return writes_; }
    void wait_writes(uint64_t more) const; // until they have written so often from now on
    const std::vector<int> &tids() const { return tids_; }

  private:
    void run(int index);

    std::vector<const Region *> regions_;
    uint64_t span_;
    std::atomic<bool> stopping_{false};
    std::atomic<bool> paused_{false};
    std::atomic<int> parked_{0};
    std::atomic<uint64_t> writes_{0};
    std::vector<int> tids_;
    std::atomic<int> started_{0};
    std::vector<std::thread> threads_;
};

// A temporary folder, removed with its contents.
class Folder {
  public:
    Folder();
    ~Folder();
    std::string path(const std::string &name) const { return path_ + "/" + name; }
    const std::string &path() const { return path_; }
    size_t files() const;

  private:
    std::string path_;
};

} // namespace hotsnap::memory::test
