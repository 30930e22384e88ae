// SPDX-License-Identifier: GPL-2.0-or-later
//
// Guest memory that is loaded on demand, by two threads:
//
//   hs-demand  answers faults: reads the page and its neighbors, compares their checksums, installs
//              them. A faulting thread never waits for the background load, except for the copying
//              of the very pages that it touched.
//   hs-load    brings the other pages: first the working set (prefetch.h), then all in the order of
//              the file, these at a limited rate. It calls on_failed and on_complete, so that
//              whatever these do keeps no fault waiting.
//
// Why is each page installed exactly once, and never an unchecked one? A thread first reads pages
// into a buffer of its own and compares their checksums; then it claims those that are good and
// absent in the ledger (guest/page_ledger.h; Unsaved is absent, Saved is present); then it installs
// what it has claimed and marks it present. A claim is won by one thread only, and between claim
// and mark there is nothing but the kernel's copy, so a claim is short (rule 2 there). The kernel
// itself refuses to install over a page that is there (UFFDIO_COPY: EEXIST), so a page that the
// guest has written to is not overwritten even if the ledger were wrong; that case is reported, and
// the ledger is audited at the end.
//
// Why does no thread wait for ever? Installing a page wakes all who wait for it, whether their
// fault was read or not, and the kernel looks for the page again after it has queued a fault. A
// fault for a page that is present by now is woken once more. A fault for a page that another
// thread has claimed is woken by that thread. A fault for a damaged page stays in a list and is
// tried again.
//
// Locks. `mutex_` is short and is not held while a page is read, installed, or a callback runs.
// `installing_` is held shared while pages are installed, and exclusively by forget(): after it no
// installation into the forgotten block is under way. The rest is atomic or constant after attach.
// None of these threads takes a lock of the caller's, so a thread that holds any may fault.
#ifndef HOTSNAP_RESTORE_LAZY_LOADER_H
#define HOTSNAP_RESTORE_LAZY_LOADER_H

#include "access/access_log.h"
#include "guest/guest_memory.h"
#include "guest/page_ledger.h"
#include "hotsnap/restore.h"
#include "restore/image_index.h"
#include "restore/load_plan.h"
#include "restore/missing_trap.h"
#include "restore/prefetch.h"
#include "restore/verified_file.h"
#include "save/fault_counts.h"
#include "save/token_bucket.h"

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace hotsnap::memory {

struct LoadOptions {
    std::string image_path;
    std::string sums_path;
    std::string access_path;        // empty: no working set
    std::optional<uint64_t> window; // in pages
    uint64_t sums_xxh3 = 0;
    uint32_t section_id = 0;
    uint64_t bandwidth = 0;
    std::vector<int> vcpu_tids;
    std::function<void(const std::string &)> on_failed = [](const std::string &) {};
    std::function<void()> on_complete = [] {};
};

class LazyLoader {
  public:
    struct Failure {
        std::string message;
        std::string block;
        uint64_t block_offset = 0;
        uint64_t file_offset = 0;
    };

    explicit LazyLoader(LoadOptions options); // hs_load_open
    ~LazyLoader();                            // only when may_end()
    LazyLoader(const LazyLoader &) = delete;
    LazyLoader &operator=(const LazyLoader &) = delete;

    // `changed`: the memory's content was touched, so that the loader must stay.
    void attach(std::vector<MemoryBlock> blocks, bool &changed);
    bool takes(const std::string &idstr, uint64_t length, uint64_t pages_offset) const;
    bool may_end() const { return !touched_ || complete_; }
    bool ready() const;
    void running();

    void get_stats(hs_load_stats &stats) const;
    std::optional<Failure> failure() const;
    void set_bandwidth(uint64_t bytes_per_second);
    void retry();
    void wait(const std::function<bool()> &cancelled); // throws Error
    void forget(const void *host);

  private:
    static constexpr uint64_t load_pages = 256; // read at once in the background

    // Trapped pages of one block that lie together. The ledger numbers the pages of all ranges.
    struct Range {
        const ImageBlock *image = nullptr;
        std::byte *block_host = nullptr;
        PageSpan span;             // pages of the block
        uint64_t ledger_first = 0; // number of its first page in the ledger
        uint64_t unit = 1;         // pages that are there together: those of a huge page
        bool forgotten = false;    // under installing_

        std::byte *host(uint64_t page) const { return block_host + page * page_bytes; }
        uint64_t number(uint64_t page) const { return ledger_first + page - span.first; }
        uint64_t address_of(uint64_t page) const { return reinterpret_cast<uint64_t>(host(page)); }
        uint64_t address() const { return address_of(span.first); }
        uint64_t bytes() const { return (span.count + unit - 1) / unit * unit * page_bytes; }
        uint64_t file_offset(uint64_t page) const {
            return image->pages_offset + page * page_bytes;
        }
    };
    struct Place {
        const Range *range = nullptr;
        uint64_t page = 0; // of the block
    };
    struct Damage {
        Place place;
        std::string why;
    };
    // A block that is not trapped: its content, to be copied as soon as nothing can fail.
    struct Direct {
        std::byte *host = nullptr;
        std::vector<std::byte> content;
    };
    struct Waiting {
        Place place;
        int tid = 0;
    };

    const ImageBlock *image_of(const MemoryBlock &block) const;
    std::vector<std::byte> read_block(const ImageBlock &image) const;
    bool trap_block(const ImageBlock &image, const MemoryBlock &block);
    void drop_content(const MemoryBlock &block) const;
    void start();
    void end_threads();

    Range *range_of(uint64_t address);
    void serve_faults();
    bool serve(const Waiting &waiting);
    void load_all();
    void load_working_set();
    bool load_image_run(const AccessMap::Run &run);
    void learn();
    void load_ranges();
    uint64_t load_run(const Range &range, const PageSpan &run, bool stored); // bytes read
    uint64_t load_units(const Range &range, const PageSpan &run);            // the same
    bool load_unit(const Range &range, uint64_t page, std::span<std::byte> buffer, Manner manner,
                   bool lead);
    void load_damaged();
    void wait_for_news();
    void heed();
    void spend(uint64_t bytes);
    void complete();
    bool news() const; // under mutex_: on_failed is due
    bool all_present(const Range &range, const PageSpan &run) const;

    static void must_be_installed(const Range &range, uint64_t page, MissingTrap::Outcome outcome);
    void save_unit(const Range &range, const PageSpan &unit, Manner manner,
                   std::optional<uint64_t> lead);
    // Installs those pages of the run that are good and absent. `lead`: the page that was touched.
    void install(const Range &range, const PageSpan &run, const std::byte *content,
                 const bool *good, Manner manner, std::optional<uint64_t> lead);
    void note_damage(const Range &range, uint64_t page, const std::string &why);
    void forget_damage(const Range &range, const PageSpan &run);
    void fail_for_good(const std::string &why);
    void tell_failure();
    Manner manner_of(int tid) const;
    uint64_t remaining() const;
    const Damage *damage_now() const;           // under mutex_; null if there is none
    std::optional<Failure> failure_now() const; // under mutex_

    LoadOptions options_;
    VerifiedFile file_;
    const std::vector<ImageBlock> index_;
    std::unique_ptr<MissingTrap> trap_;
    std::vector<Range> ranges_;          // by address
    std::vector<const Range *> in_file_; // the same by place in the image
    Prefetch prefetch_;
    AccessLog accesses_; // pages that somebody had to wait for
    std::unique_ptr<PageLedger> ledger_;
    AlignedBuffer demand_buffer_;
    AlignedBuffer load_buffer_;

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    TokenBucket bucket_{0, 0};           // under mutex_
    std::map<uint64_t, Damage> damaged_; // by number in the ledger; under mutex_
    std::string fatal_;                  // under mutex_: no retry can help
    bool told_ = false;                  // under mutex_: since the last retry
    uint64_t tries_ = 0;                 // under mutex_: retries asked for
    uint64_t tries_heeded_ = 0;          // under mutex_
    std::shared_mutex installing_;
    std::atomic<uint64_t> damaged_count_{0}; // of damaged_
    std::atomic<uint64_t> forgotten_{0};     // absent pages of forgotten blocks

    std::atomic<bool> touched_{false}; // memory was dropped
    std::atomic<bool> attached_{false};
    std::atomic<bool> complete_{false};
    std::atomic<bool> ending_{false}; // nothing is absent: hs-demand ends
    std::atomic<bool> try_again_{false};
    std::atomic<uint64_t> devices_waiting_{0};
    std::atomic<uint64_t> bytes_read_{0};
    std::atomic<uint64_t> untrapped_{0};
    std::atomic<uint64_t> began_ns_{0};
    std::atomic<uint64_t> ended_ns_{0};
    std::atomic<uint64_t> attach_us_{0};
    FaultCounts counts_;
    std::thread demand_;
    std::thread load_;
};

} // namespace hotsnap::memory
#endif
