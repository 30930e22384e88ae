// SPDX-License-Identifier: GPL-2.0-or-later
//
// A memory image to load on demand, and a VM's memory to load it into.
#pragma once

#include "guest.h"
#include "hotsnap/restore.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace hotsnap::memory::test {

// An image that the library has made of these regions.
class SavedImage {
  public:
    explicit SavedImage(const std::vector<const Region *> &regions);

    Folder folder;
    std::string image;
    std::string sums;
    uint64_t sums_xxh3 = 0;

    void flip(uint64_t offset) const; // changes one byte; twice: as before
    void truncate(uint64_t size) const;
    uint64_t size() const;
    void sum_again(); // new checksums, of the file as it is now
    uint64_t pages_offset(const std::string &block) const;
};

// A load through the C interface.
class Load {
  public:
    explicit Load(const SavedImage &saved);
    ~Load(); // waits for the end

    hs_load_options options;
    std::string open();
    std::string attach(const std::vector<const Region *> &regions);
    std::string wait(); // the error, empty when all is there
    hs_load_stats stats() const;
    hs_load *handle() const { return handle_; }

    std::atomic<int> failures{0};
    std::atomic<int> completions{0};
    bool changed = false;
    bool abandon = false; // the test leaves absent pages behind

  private:
    hs_load *handle_ = nullptr;
};

// How often one of four threads finds a byte of `target`, at so many random places each, that is
// not that of `source`.
int misread(const Region &target, const Region &source, int places);

// Waits, at most 20 s, until `condition` holds; returns whether it does.
bool eventually(const std::function<bool()> &condition);

} // namespace hotsnap::memory::test
