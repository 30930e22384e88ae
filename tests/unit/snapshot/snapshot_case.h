// SPDX-License-Identifier: GPL-2.0-or-later
//
// A snapshot taken through the C interface, with the steps of a VM around it.
#pragma once

#include "guest.h"
#include "mapped_ram.h"

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace hotsnap::memory::test {

class Snapshot {
  public:
    explicit Snapshot(std::vector<const Region *> regions);
    ~Snapshot();

    Folder folder;
    hs_snapshot_options options;
    std::string image;
    std::string sums;
    bool converged = false;
    std::function<void(hs_ram_block &)> adjust; // changes a block that create() passes

    // Each returns the error, empty when there was none.
    std::string create();
    std::string precopy(); // `converged` then tells whether it did
    std::string arm(uint64_t max_us = 1'000'000);
    std::string cut();
    std::string start();
    std::string wait(); // for on_finished; returns its error
    std::string dump(const std::string &path);
    std::string compare_sums() const; // the image with its checksums; empty when it is as they say

    // The memory at this moment, by name of the block.
    std::map<std::string, std::vector<std::byte>> copy() const;
    LoadedImage load() const { return load(image); }
    LoadedImage load(const std::string &path) const;
    hs_snapshot_stats stats() const;
    hs_snapshot *handle() const { return handle_; }
    int finished_calls();
    void free();

    static const std::vector<std::byte> head;
    static const std::vector<std::byte> tail;

  private:
    static void finished(void *opaque, const char *error);

    std::vector<const Region *> regions_;
    hs_snapshot *handle_ = nullptr;
    std::mutex mutex_;
    std::condition_variable changed_;
    int finished_calls_ = 0;
    std::string finished_error_;
};

} // namespace hotsnap::memory::test
