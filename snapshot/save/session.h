// SPDX-License-Identifier: GPL-2.0-or-later
//
// One snapshot of one VM's memory: owns the parts, and takes them through its phases.
//
//     created --arm--> armed --cut--> cut --start--> copying --> finished
//        any phase --abort, or a failure of a part--> stopped
//
// Mode precopy: between its creation and arm, memory is copied already (precopy.h).
//
// Each of the two kinds of traps (write_trap.h) has the parts it needs: arming and a fault thread;
// or, for a trap with a bitmap, a ring thread and a service for the threads that write.
//
// Threads: the caller's; hs-precopy (precopy.h), until arm; hs-arming (arming.h); hs-faults
// (fault_service.h) or hs-kvm-ring (ring_service.h) and the threads that write (writer_service.h);
// hs-writer (image_writer.h); hs-snapshot, from start on: copies, then completes the image and
// calls on_finished.
//
// Each part has its own mutexes. Some are held while other parts are called: stopping_mutex_,
// FaultService::Quiet, and those around the work of the arming, fault, ring and copying threads.
// Pool, writer, trap, dirty list and pace hold none of theirs while they call another part, so
// there is no circle.
//
// abort may come from any thread. It tells every part to stop, waits only for short work (one
// ioctl, one chunk), releases the memory and removes the files; it joins no thread. The thread
// hs-snapshot notices and reports. Whether a snapshot finished or was aborted is decided once,
// under state_mutex_.
#ifndef HOTSNAP_SAVE_SESSION_H
#define HOTSNAP_SAVE_SESSION_H

#include "guest/page_ledger.h"
#include "hotsnap/snapshot.h"
#include "image/checksums.h"
#include "image/image_layout.h"
#include "image/image_writer.h"
#include "save/arming.h"
#include "save/copier.h"
#include "save/fault_service.h"
#include "save/pace.h"
#include "save/page_reader.h"
#include "save/precopy.h"
#include "save/ring_service.h"
#include "save/writer_service.h"

#include <memory>
#include <string>

namespace hotsnap::memory {

struct SnapshotOptions {
    std::string image_path;
    std::string sums_path;
    std::string access_path; // empty: the working set is not written
    hs_tuning tuning{};
    StreamFormat stream;
    std::vector<int> vcpu_tids;
    bool precopy = false;
    bool open_dma_trap = false; // for tests
    std::function<void(const char *error)> on_finished;
    std::function<void()> on_copied;
};

class Session {
  public:
    Session(SnapshotOptions options, std::vector<MemoryBlock> blocks,
            std::unique_ptr<WriteTrap> trap);
    ~Session();
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;

    bool precopy(); // whether it converged
    void arm(uint64_t max_us);
    void cut();
    void dump(const std::string &path);
    void start(std::span<const std::byte> tail);

    // Any thread. See snapshot.h.
    bool before_guest_write(const void *host);
    void before_dma_write(const void *host, size_t size);
    void abort(const std::string &reason);
    void get_stats(hs_snapshot_stats &stats) const;
    void set_bandwidth(uint64_t rate) { pace_.set_bandwidth(rate); }
    void set_deadline(uint64_t deadline_ns) { pace_.set_deadline(deadline_ns); }

  private:
    enum class Phase { created, armed, cut, copying, finished };

    void prepare();
    void require(Phase phase, const char *call) const;
    void check_space() const;
    void copy_and_finish();
    void save_untrapped();
    void complete_image();
    void stop_everything();
    void get_times(hs_snapshot_stats &stats) const;
    std::function<void(const std::string &)> aborter();

    SnapshotOptions options_;
    std::unique_ptr<WriteTrap> trap_;
    GuestMemory memory_;
    ImageLayout layout_;
    PageLedger ledger_;
    StagingPool pool_;
    AccessLog accesses_;
    Pace pace_;
    DirtyList dirty_;
    std::unique_ptr<PageReader> reader_;
    Fd sums_fd_;
    std::unique_ptr<ImageWriter> writer_;
    std::unique_ptr<FaultService> faults_;
    std::unique_ptr<RingService> ring_;      // null: the trap has no bitmap
    std::unique_ptr<WriterService> writers_; // the same
    std::unique_ptr<Arming> arming_;
    std::unique_ptr<Copier> copier_;
    std::unique_ptr<Precopy> precopy_; // null: not in this mode
    std::vector<std::byte> tail_;
    std::thread thread_;

    mutable std::mutex state_mutex_;
    Phase phase_ = Phase::created;
    bool stopped_ = false;
    std::string reason_;        // why stopped
    std::mutex stopping_mutex_; // a second abort returns when the first has done the work

    std::atomic<uint64_t> cut_pages_{0};
    std::atomic<uint64_t> cut_us_{0};
    std::atomic<uint64_t> started_ns_{0};
    std::atomic<uint64_t> copied_ns_{0};
    std::atomic<uint64_t> durable_ns_{0};
    std::atomic<uint64_t> image_size_{0};
    std::atomic<uint64_t> sums_xxh3_{0};
};

} // namespace hotsnap::memory
#endif
