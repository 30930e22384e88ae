// SPDX-License-Identifier: GPL-2.0-or-later
//
// Which pages were touched, and when: what a later restore loads first. (HotRestore, LISA '14, 3:
// the working set.) Taking a note costs an addition and a store, by any thread, without a lock.
#ifndef HOTSNAP_ACCESS_ACCESS_LOG_H
#define HOTSNAP_ACCESS_ACCESS_LOG_H

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace hotsnap::memory {

// A page is named by its place in the memory image, in pages, so that no names of blocks are
// needed.
struct Access {
    uint64_t page = 0;
    uint32_t ms = 0; // since begin()
    bool operator==(const Access &) const = default;
};

class AccessLog {
  public:
    // Notes beyond `most` are dropped: the log is a hint, and the first accesses matter most. By
    // default 1 GiB of pages fit, in 2 MiB of notes.
    explicit AccessLog(size_t most = 1 << 18);

    // The guest begins to run: times count from here. Before it, they are 0.
    void begin(uint64_t now_ns) { began_ns_.store(now_ns, std::memory_order_relaxed); }

    void note(uint64_t page, uint64_t now_ns);

    // What was noted; a note that another thread takes at this moment may be missing.
    std::vector<Access> accesses() const;

  private:
    // 40 bits of the page and 24 of the time, which is 4.6 hours, plus 1; 0 is no note. Memory that
    // is not noted in is not touched.
    using Notes = std::unique_ptr<std::atomic<uint64_t>[], void (*)(void *)>;

    size_t most_;
    Notes notes_;
    std::atomic<size_t> next_{0};
    std::atomic<uint64_t> began_ns_{0};
};

} // namespace hotsnap::memory
#endif
