// SPDX-License-Identifier: GPL-2.0-or-later
//
// The working set on its way into memory, ahead of the guest (HotRestore, LISA '14, 3): what is
// loaded first, and when so much of it is there that the guest may start.
#ifndef HOTSNAP_RESTORE_PREFETCH_H
#define HOTSNAP_RESTORE_PREFETCH_H

#include "access/access_map.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>

namespace hotsnap::memory {

// One thread loads; any thread may ask.
class Prefetch {
  public:
    // `window`: pages that must be there before the guest starts; none given: as many as the rate
    // of loading asks for (AccessMap::window).
    Prefetch(AccessMap map, std::optional<uint64_t> window)
        : map_(std::move(map)), planned_(map_.pages()), window_(window) {}

    // Calls `load` for runs of pages of the image, those first that the guest wants first. Runs
    // that lie close together are one: to read a gap is quicker than to seek over it. Ends when
    // `load` returns false.
    void run(const std::function<bool(const AccessMap::Run &)> &load, uint64_t now_ns);

    // Whether the guest may start, as far as prefetching goes. Before run() has ended, that depends
    // on the rate so far.
    bool ready(uint64_t now_ns) const;

    const AccessMap &map() const { return map_; }
    uint64_t planned() const { return planned_; }
    uint64_t loaded() const { return loaded_.load(std::memory_order_relaxed); }

  private:
    const AccessMap map_;
    const uint64_t planned_;
    const std::optional<uint64_t> window_;
    std::atomic<uint64_t> loaded_{0}; // of the planned pages
    std::atomic<uint64_t> began_ns_{0};
    std::atomic<bool> ended_{false};
};

} // namespace hotsnap::memory
#endif
