// SPDX-License-Identifier: GPL-2.0-or-later
#include "restore/lazy_loader.h"

#include "access/access_file.h"
#include "base/clock.h"
#include "base/error.h"
#include "guest/zero_page.h"
#include "os/thread.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace hotsnap::memory {

namespace {

constexpr uint64_t untrapped_gap = 512;    // zero pages in a row that get no trap: 2 MiB
constexpr size_t most_spans = 1024;        // of a block
constexpr uint64_t direct_bytes = 1 << 20; // smaller blocks are not worth a trap
constexpr uint64_t largest_page = 2 << 20;
constexpr uint64_t untrappable_bytes = 64 << 20;
constexpr int poll_ms = 20;

[[noreturn]] void refuse(const MemoryBlock &block, const std::string &why) {
    throw Error("memory block \"" + block.idstr + "\" " + why + "; load it in full");
}

void check_kind(const MemoryBlock &block) {
    if (block.read_only) {
        refuse(block, "is mapped read-only and cannot be loaded on demand");
    }
    if (block.page_size > largest_page) {
        refuse(block, "has huge pages of more than 2 MiB, of which each would make the guest wait "
                      "too long");
    }
}

} // namespace

LazyLoader::LazyLoader(LoadOptions options)
    : options_(std::move(options)),
      file_(options_.image_path, options_.sums_path, options_.sums_xxh3),
      index_(read_index(file_, options_.section_id)),
      prefetch_(read_access_file(options_.access_path, options_.sums_xxh3,
                                 (file_.size() + page_bytes - 1) / page_bytes),
                options_.window),
      demand_buffer_(group_bytes), load_buffer_(load_pages * page_bytes),
      bucket_(options_.bandwidth, now_ns()) {
    std::ranges::sort(options_.vcpu_tids);
}

LazyLoader::~LazyLoader() {
    end_threads();
}

void LazyLoader::end_threads() {
    ending_ = true;
    changed_.notify_all();
    if (demand_.joinable()) {
        trap_->wake();
        demand_.join();
    }
    if (load_.joinable()) {
        load_.join();
    }
}

// --- Before the VM runs

const ImageBlock *LazyLoader::image_of(const MemoryBlock &block) const {
    const auto found = std::ranges::find(index_, block.idstr, &ImageBlock::idstr);
    if (found == index_.end()) {
        return nullptr;
    }
    if (found->length != block.length) {
        refuse(block, "has " + std::to_string(block.length) + " bytes here and " +
                          std::to_string(found->length) + " in " + file_.path());
    }
    return &*found;
}

std::vector<std::byte> LazyLoader::read_block(const ImageBlock &image) const {
    std::vector<std::byte> content(image.length);
    each_run(image, {0, image.pages()}, load_pages, [&](const PageSpan &run, bool stored) {
        if (stored) {
            std::ranges::copy(
                file_.read(image.pages_offset + run.first * page_bytes, run.count * page_bytes),
                content.begin() + static_cast<std::ptrdiff_t>(run.first * page_bytes));
        }
        return true;
    });
    return content;
}

bool LazyLoader::trap_block(const ImageBlock &image, const MemoryBlock &block) {
    // What is absent in private memory would come from the file; that of huge pages is empty.
    if (block.length <= direct_bytes || (block.fd >= 0 && !block.shared && !block.huge())) {
        return false;
    }
    const uint64_t unit = block.page_size / page_bytes;
    for (const PageSpan &span :
         in_units(trapped_spans(image, untrapped_gap, most_spans), unit, image.pages())) {
        Range range;
        range.image = &image;
        range.block_host = block.host;
        range.span = span;
        range.unit = unit;
        if (!trap_->trap(range.address(), range.bytes(), block.huge())) {
            std::erase_if(ranges_, [&](const Range &r) { return r.block_host == block.host; });
            return false;
        }
        ranges_.push_back(range);
    }
    return true;
}

// Trapped memory is absent after that; other memory reads as zeros.
void LazyLoader::drop_content(const MemoryBlock &block) const {
    int result;
    if (block.shared && block.fd >= 0) {
        result = fallocate(block.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                           static_cast<off_t>(block.fd_offset),
                           static_cast<off_t>(block.mapped_length()));
    } else {
        result =
            madvise(block.host, block.mapped_length(), block.shared ? MADV_REMOVE : MADV_DONTNEED);
    }
    if (result < 0) {
        throw system_error(errno, "cannot drop the content of memory block \"" + block.idstr + "\"",
                           "load it in full");
    }
}

// Everything that can fail comes first. A trap does no harm to memory that is there, so all of it
// is trapped before any is dropped; what another thread writes meanwhile is dropped as well, and
// there is no moment in which memory is absent and not trapped.
void LazyLoader::attach(std::vector<MemoryBlock> blocks, bool &changed) {
    const uint64_t begin = now_ns();
    changed = false;
    std::vector<MemoryBlock> trapped;
    std::vector<Direct> direct;
    bool any_shared = false;
    uint64_t found = 0;
    uint64_t largest = page_bytes;
    for (const MemoryBlock &block : blocks) {
        any_shared = any_shared || block.shared;
        largest = std::max(largest, std::min(block.page_size, largest_page));
    }
    trap_ = std::make_unique<MissingTrap>(any_shared, largest > page_bytes);
    if (largest > page_bytes) {
        demand_buffer_ = AlignedBuffer(std::max(largest, group_bytes));
        load_buffer_ = AlignedBuffer(std::max(largest, load_pages * page_bytes));
    }
    for (const MemoryBlock &block : blocks) {
        const ImageBlock *image = block.length == 0 ? nullptr : image_of(block);
        if (image == nullptr) {
            continue;
        }
        found++;
        check_kind(block);
        if (trap_block(*image, block)) {
            trapped.push_back(block);
        } else if (block.length > untrappable_bytes) {
            refuse(block, "is backed by a file and cannot be loaded on demand");
        } else {
            direct.push_back({block.host, read_block(*image)});
            untrapped_ += image->pages();
        }
    }
    if (found != index_.size()) {
        throw Error(file_.path() + " has memory blocks that this machine has not; start it with "
                                   "the command line that it was saved with");
    }
    std::ranges::sort(ranges_, {}, &Range::address);
    uint64_t pages = 0;
    for (Range &range : ranges_) {
        range.ledger_first = pages;
        pages += range.span.count;
    }
    ledger_ = std::make_unique<PageLedger>(pages);
    for (const Range &range : ranges_) {
        in_file_.push_back(&range);
    }
    std::ranges::sort(in_file_, {}, [](const Range *r) { return r->file_offset(r->span.first); });
    for (const MemoryBlock &block : trapped) {
        untrapped_ += block.pages();
    }
    untrapped_ -= pages;
    start();
    changed = true;
    touched_ = true;
    for (const MemoryBlock &block : trapped) {
        drop_content(block);
    }
    for (const Direct &each : direct) {
        std::memcpy(each.host, each.content.data(), each.content.size());
    }
    began_ns_ = begin;
    attach_us_ = ns_to_us(now_ns() - begin);
    {
        const std::lock_guard lock(mutex_);
        attached_ = true;
    }
    changed_.notify_all();
}

bool LazyLoader::takes(const std::string &idstr, uint64_t length, uint64_t pages_offset) const {
    return attached_ && std::ranges::any_of(index_, [&](const ImageBlock &block) {
               return block.idstr == idstr && block.length == length &&
                      block.pages_offset == pages_offset;
           });
}

void LazyLoader::start() {
    demand_ = spawn("hs-demand", [this] {
        try {
            serve_faults();
        } catch (const std::exception &error) {
            fail_for_good(error.what());
        }
    });
    load_ = spawn("hs-load", [this] {
        try {
            load_all();
        } catch (const std::exception &error) {
            fail_for_good(error.what());
            tell_failure();
        }
    });
}

// --- Any thread

bool LazyLoader::ready() const {
    return !attached_ || complete_ || prefetch_.ready(now_ns()) || failure();
}

void LazyLoader::running() {
    accesses_.begin(now_ns());
}

std::optional<LazyLoader::Failure> LazyLoader::failure() const {
    const std::lock_guard lock(mutex_);
    return failure_now();
}

void LazyLoader::set_bandwidth(uint64_t bytes_per_second) {
    {
        const std::lock_guard lock(mutex_);
        bucket_.set_rate(bytes_per_second, now_ns());
    }
    changed_.notify_all();
}

void LazyLoader::retry() {
    {
        const std::lock_guard lock(mutex_);
        tries_++;
    }
    changed_.notify_all();
    if (attached_ && !complete_) {
        try_again_ = true;
        trap_->wake();
    }
}

void LazyLoader::wait(const std::function<bool()> &cancelled) {
    std::unique_lock lock(mutex_);
    while (attached_ && !complete_) {
        if (const auto failure = failure_now()) {
            throw Error(failure->message);
        }
        if (cancelled()) {
            throw Error("cancelled while guest memory was loaded");
        }
        changed_.wait_for(lock, std::chrono::milliseconds(poll_ms));
    }
}

void LazyLoader::forget(const void *host) {
    if (!attached_ || complete_) {
        return;
    }
    const std::lock_guard installing(installing_);
    for (Range &range : ranges_) {
        if (range.block_host != host || range.forgotten) {
            continue;
        }
        uint64_t absent = 0;
        for (uint64_t i = 0; i < range.span.count; i++) {
            absent += !ledger_->saved(range.ledger_first + i);
        }
        range.forgotten = true;
        forgotten_ += absent;
        trap_->release(range.address(), range.bytes());
        const std::lock_guard lock(mutex_);
        damaged_.erase(damaged_.lower_bound(range.ledger_first),
                       damaged_.lower_bound(range.ledger_first + range.span.count));
        damaged_count_ = damaged_.size();
    }
    changed_.notify_all();
}

void LazyLoader::get_stats(hs_load_stats &stats) const {
    const PageLedger::Counts pages = ledger_ ? ledger_->counts() : PageLedger::Counts{};
    stats.untrapped = untrapped_;
    stats.total = untrapped_ + (ledger_ ? ledger_->pages() : 0);
    stats.background = pages.by_manner[static_cast<size_t>(Manner::background)];
    stats.demand_guest = pages.by_manner[static_cast<size_t>(Manner::guest_write)];
    stats.demand_device = pages.by_manner[static_cast<size_t>(Manner::dma_write)];
    stats.neighbors = pages.neighbors;
    stats.zero = pages.zero;
    stats.remaining = remaining();
    stats.damaged = damaged_count_;
    stats.faults = counts_.answered;
    stats.fault_us_max = counts_.us_max;
    stats.fault_us_sum = counts_.us_sum;
    stats.bytes_read = bytes_read_;
    stats.planned = prefetch_.planned();
    stats.prefetched = prefetch_.loaded();
    stats.attach_us = attach_us_;
    const uint64_t end = ended_ns_ != 0 ? ended_ns_.load() : now_ns();
    stats.elapsed_us = began_ns_ != 0 ? ns_to_us(end - began_ns_) : 0;
    stats.complete = complete_;
    stats.devices_waiting = devices_waiting_;
    const std::lock_guard lock(mutex_);
    stats.bandwidth = bucket_.rate();
    stats.failed = failure_now().has_value();
}

} // namespace hotsnap::memory
