// SPDX-License-Identifier: GPL-2.0-or-later
//
// Writes staged pages to the image: one thread, libaio, O_DIRECT where the file system can, many
// writes in flight, neighboring groups joined to large writes. It also sums the bytes it writes.
//
// After a failed write nothing more is written, and slots go straight back to the pool, so that
// no fault and no copier waits for storage that has failed.
#ifndef HOTSNAP_IMAGE_IMAGE_WRITER_H
#define HOTSNAP_IMAGE_IMAGE_WRITER_H

#include "image/checksums.h"
#include "image/staging_pool.h"
#include "os/file.h"

#include <libaio.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace hotsnap::memory {

// A slot on its way to the image: page i of `mask` belongs at offset + i * page_bytes.
struct StagedGroup {
    Slot slot = nullptr;
    uint64_t offset = 0;
    GroupMask mask = 0; // not 0
};

class ImageWriter {
  public:
    // Creates the file (it must not exist) and the thread. `data_size` is where the pages end.
    // `on_error` is called once at most, from the thread, with no lock held.
    ImageWriter(const std::string &path, uint64_t data_size, StagingPool &pool,
                std::function<void(const std::string &)> on_error);

    // Joins the thread; groups not written yet are dropped.
    ~ImageWriter();

    // Any thread. The writer owns the slots from here and returns them to the pool.
    void submit(std::span<const StagedGroup> groups);

    // Waits until everything submitted is written or dropped. False after a failure or discard().
    bool drain();

    // Stops writing. Any thread, any time.
    void discard();

    // After drain(), from the thread that called it: write_metadata writes a piece of metadata
    // (image_layout.h) and sums it; then finish gives the file its size and makes it durable. Both
    // throw.
    void write_metadata(uint64_t offset, std::span<const std::byte> bytes);
    void finish(uint64_t size);

    const SumsTable &sums() const { return sums_; }
    bool direct() const { return direct_.load(std::memory_order_relaxed); }
    uint64_t bytes_written() const { return written_.load(std::memory_order_relaxed); }

  private:
    struct Io;

    void run();
    void prepare(Io &io);
    void submit_prepared();
    void start(Io &io);
    std::optional<long> begin(Io &io);
    bool settle(Io &io, long result);
    void wait_for_work();
    void reap();
    void retire(Io &io);
    void let_go(Slot slot);
    void drop_taken();
    void fail(const std::string &message);
    void wake();

    std::string path_;
    StagingPool &pool_;
    std::function<void(const std::string &)> on_error_;
    Fd fd_;
    Fd event_; // completions and new work
    io_context_t context_ = nullptr;
    SumsTable sums_;
    uint64_t data_size_;
    std::atomic<bool> direct_{true};
    std::atomic<uint64_t> written_{0};
    std::atomic<bool> discarding_{false};

    // Of the thread alone.
    std::vector<Io> ios_;
    std::vector<Io *> free_ios_;
    std::vector<Io *> prepared_;
    std::vector<uint8_t> slot_uses_; // by index of slot: writes that still need it
    std::deque<StagedGroup> taken_;  // from queue_, not yet in a write

    std::mutex mutex_;
    std::condition_variable drained_;
    std::vector<StagedGroup> queue_;
    size_t unfinished_ = 0; // groups submitted and not yet written or dropped
    bool sleeping_ = false;
    bool stopping_ = false;

    std::thread thread_;
};

} // namespace hotsnap::memory
#endif
