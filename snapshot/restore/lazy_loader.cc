// SPDX-License-Identifier: GPL-2.0-or-later
#include "restore/lazy_loader.h"

#include "base/clock.h"
#include "base/error.h"
#include "guest/zero_page.h"
#include "os/thread.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace hotsnap::memory {

namespace {

constexpr uint64_t load_pages = 256;       // read at once in the background
constexpr uint64_t untrapped_gap = 512;    // zero pages in a row that get no trap: 2 MiB
constexpr size_t most_spans = 1024;        // of a block
constexpr uint64_t direct_bytes = 1 << 20; // smaller blocks are not worth a trap
constexpr uint64_t untrappable_bytes = 64 << 20;
constexpr size_t most_damaged = 4096; // noted at a time; then the background load waits
constexpr int retry_ms = 1000;
constexpr int news_ms = 20;
constexpr uint64_t spin_ns = 20'000;

[[noreturn]] void refuse(const MemoryBlock &block, const std::string &why) {
    throw Error("memory block \"" + block.idstr + "\" " + why + "; load it in full");
}

void check_kind(const MemoryBlock &block) {
    if (block.read_only) {
        refuse(block, "is mapped read-only and cannot be loaded on demand");
    }
    if (block.huge()) {
        refuse(block, "has huge pages, which cannot be loaded on demand yet");
    }
}

} // namespace

LazyLoader::LazyLoader(LoadOptions options)
    : options_(std::move(options)),
      file_(options_.image_path, options_.sums_path, options_.sums_xxh3),
      index_(read_index(file_, options_.section_id)), demand_buffer_(group_bytes),
      load_buffer_(load_pages * page_bytes), bucket_(options_.bandwidth, now_ns()) {
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
    if (block.length <= direct_bytes || (block.fd >= 0 && !block.shared)) {
        return false;
    }
    for (const PageSpan &span : trapped_spans(image, untrapped_gap, most_spans)) {
        Range range;
        range.image = &image;
        range.block_host = block.host;
        range.span = span;
        if (!trap_->trap(range.address(), range.bytes())) {
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
    for (const MemoryBlock &block : blocks) {
        any_shared = any_shared || block.shared;
    }
    trap_ = std::make_unique<MissingTrap>(any_shared);
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

// --- Installing

void LazyLoader::install(const Range &range, const PageSpan &run, const std::byte *content,
                         const bool *good, Manner manner, std::optional<uint64_t> lead) {
    const std::shared_lock lock(installing_);
    if (range.forgotten) {
        return;
    }
    for (uint64_t at = 0; at < run.count; at += group_pages) {
        const uint64_t count = std::min<uint64_t>(group_pages, run.count - at);
        const uint64_t first = run.first + at;
        unsigned mask = 0;
        unsigned neighbors = 0;
        for (uint64_t i = 0; i < count; i++) {
            if ((good == nullptr || good[at + i]) &&
                ledger_->claim(range.number(first + i), 1) != 0) {
                mask |= 1u << i;
                neighbors |= lead && *lead != first + i ? 1u << i : 0;
            }
        }
        for (uint64_t i = 0; i < count;) {
            uint64_t end = i;
            while (end < count && (mask >> end & 1) != 0) {
                end++;
            }
            if (end > i) {
                const auto address = reinterpret_cast<uint64_t>(range.host(first + i));
                const uint64_t bytes = (end - i) * page_bytes;
                const auto outcome =
                    content == nullptr
                        ? trap_->install_zeros(address, bytes)
                        : trap_->install(address, {content + (at + i) * page_bytes, bytes});
                if (outcome != MissingTrap::Outcome::installed) {
                    throw Error("guest memory block \"" + range.image->idstr + "\" at offset " +
                                std::to_string((first + i) * page_bytes) +
                                (outcome == MissingTrap::Outcome::occupied
                                     ? " had content before it was loaded: this is a bug"
                                     : " was taken away while it was loaded: this is a bug"));
                }
            }
            i = std::max(end, i + 1);
        }
        if (mask != 0) {
            ledger_->save(range.number(first), static_cast<GroupMask>(mask),
                          content == nullptr ? static_cast<GroupMask>(mask) : GroupMask{0},
                          static_cast<GroupMask>(neighbors), manner);
        }
    }
    forget_damage(range, run);
}

bool LazyLoader::all_present(const Range &range, const PageSpan &run) const {
    for (uint64_t i = 0; i < run.count; i++) {
        if (!ledger_->saved(range.number(run.first + i))) {
            return false;
        }
    }
    return true;
}

uint64_t LazyLoader::remaining() const {
    return ledger_ ? ledger_->pages() - ledger_->saved_pages() - forgotten_ : 0;
}

// --- Faults

LazyLoader::Range *LazyLoader::range_of(uint64_t address) {
    const auto next = std::ranges::upper_bound(ranges_, address, {}, &Range::address);
    if (next == ranges_.begin()) {
        return nullptr;
    }
    Range &range = *std::prev(next);
    return address - range.address() < range.bytes() ? &range : nullptr;
}

void LazyLoader::serve_faults() {
    ask_for_priority();
    std::array<MissingTrap::Fault, 64> faults;
    std::vector<Waiting> waiting; // for pages that could not be loaded
    uint64_t idle_since = now_ns();
    uint64_t tried_ns = 0;
    while (!ending_) {
        const size_t count = trap_->next_faults(faults);
        const uint64_t begin = now_ns();
        for (size_t i = 0; i < count; i++) {
            Range *range = range_of(faults[i].address);
            if (range == nullptr) {
                continue; // cannot be: only ranges are trapped
            }
            const uint64_t page =
                (faults[i].address - reinterpret_cast<uint64_t>(range->block_host)) / page_bytes;
            const Waiting each{{range, page}, faults[i].tid};
            if (serve(each)) {
                counts_.add(ns_to_us(now_ns() - begin));
            } else {
                waiting.push_back(each);
            }
        }
        if (try_again_.exchange(false) ||
            (!waiting.empty() && begin - tried_ns > uint64_t{retry_ms} * 1'000'000)) {
            std::erase_if(waiting, [this](const Waiting &each) { return serve(each); });
            tried_ns = now_ns();
        }
        devices_waiting_ =
            static_cast<uint64_t>(std::ranges::count_if(waiting, [this](const Waiting &each) {
                return manner_of(each.tid) == Manner::dma_write;
            }));
        if (count > 0) {
            idle_since = now_ns();
        } else if (now_ns() - idle_since > spin_ns) {
            trap_->wait(waiting.empty() ? -1 : retry_ms);
            idle_since = now_ns();
        } else {
            relax_cpu();
        }
    }
}

// False when the page cannot be loaded.
bool LazyLoader::serve(const Waiting &waiting) {
    const Range &range = *waiting.place.range;
    const uint64_t page = waiting.place.page;
    const uint64_t number = range.number(page);
    if (ledger_->saved(number)) {
        trap_->wake_waiters(reinterpret_cast<uint64_t>(range.host(page)), page_bytes);
        return true;
    }
    const uint64_t group = page / group_pages * group_pages;
    const uint64_t first = std::max(group, range.span.first);
    const uint64_t end = std::min(group + group_pages, range.span.first + range.span.count);
    const PageSpan run = run_around(*range.image, page, {first, end - first});
    const Manner manner = manner_of(waiting.tid);
    if (!range.image->stored(page)) {
        install(range, run, nullptr, nullptr, manner, page);
        return true;
    }
    std::array<bool, group_pages> good{};
    const auto content = demand_buffer_.bytes().first(run.count * page_bytes);
    const std::string why =
        file_.read_pages(range.file_offset(run.first), content, std::span(good).first(run.count),
                         VerifiedFile::Order::random);
    bytes_read_.fetch_add(content.size(), std::memory_order_relaxed);
    install(range, run, content.data(), good.data(), manner, page);
    if (!good[page - run.first] && !ledger_->saved(number)) {
        note_damage(range, page, why);
        return false;
    }
    return true;
}

// As in save/fault_service.cc: KVM may hand a guest's fault to a worker of the kernel.
Manner LazyLoader::manner_of(int tid) const {
    const bool guest = std::ranges::binary_search(options_.vcpu_tids, tid) ||
                       (tid != 0 && tgkill(getpid(), tid, 0) != 0);
    return guest ? Manner::guest_write : Manner::dma_write;
}

// --- The background load

void LazyLoader::load_all() {
    {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return attached_ || ending_; });
    }
    if (!attached_) {
        return; // given up before anything was absent
    }
    give_way();
    load_ranges();
    while (remaining() > 0) {
        heed();
        wait_for_news();
        load_damaged();
    }
    complete();
}

void LazyLoader::load_ranges() {
    std::vector<const Range *> order;
    for (const Range &range : ranges_) {
        order.push_back(&range);
    }
    std::ranges::sort(order, {}, [](const Range *r) { return r->file_offset(r->span.first); });
    for (const Range *range : order) {
        each_run(*range->image, range->span, load_pages, [&](const PageSpan &run, bool stored) {
            while (damaged_count_ >= most_damaged) {
                heed();
                wait_for_news();
                load_damaged();
            }
            spend(load_run(*range, run, stored));
            heed();
            return true;
        });
    }
}

uint64_t LazyLoader::load_run(const Range &range, const PageSpan &run, bool stored) {
    if (all_present(range, run)) {
        return 0;
    }
    if (!stored) {
        install(range, run, nullptr, nullptr, Manner::background, std::nullopt);
        return 0;
    }
    std::array<bool, load_pages> good{};
    const auto content = load_buffer_.bytes().first(run.count * page_bytes);
    const std::string why =
        file_.read_pages(range.file_offset(run.first), content, std::span(good).first(run.count),
                         VerifiedFile::Order::sequential);
    bytes_read_.fetch_add(content.size(), std::memory_order_relaxed);
    install(range, run, content.data(), good.data(), Manner::background, std::nullopt);
    for (uint64_t i = 0; i < run.count; i++) {
        if (!good[i] && !ledger_->saved(range.number(run.first + i))) {
            note_damage(range, run.first + i, why);
        }
    }
    return content.size();
}

void LazyLoader::load_damaged() {
    std::vector<Place> places;
    {
        const std::lock_guard lock(mutex_);
        for (const auto &[number, damage] : damaged_) {
            places.push_back(damage.place);
        }
    }
    for (const Place &place : places) {
        load_run(*place.range, {place.page, 1}, place.range->image->stored(place.page));
    }
}

// Some pages are absent: hs-demand is about to install them, or they are damaged.
void LazyLoader::wait_for_news() {
    std::unique_lock lock(mutex_);
    const auto most = std::chrono::milliseconds(damaged_.empty() ? 1 : retry_ms);
    const uint64_t tries = tries_;
    changed_.wait_for(lock, most, [&] { return news() || tries_ != tries || remaining() == 0; });
}

bool LazyLoader::news() const {
    return !told_ && (!damaged_.empty() || !fatal_.empty());
}

// Does what other threads have asked for, between two steps.
void LazyLoader::heed() {
    bool again = false;
    {
        const std::lock_guard lock(mutex_);
        again = tries_heeded_ != tries_;
        tries_heeded_ = tries_;
    }
    if (again) {
        load_damaged();
        const std::lock_guard lock(mutex_);
        told_ = false;
    }
    tell_failure();
}

void LazyLoader::spend(uint64_t bytes) {
    std::unique_lock lock(mutex_);
    bucket_.spend(bytes, now_ns());
    while (const uint64_t wait = bucket_.wait_ns(now_ns())) {
        changed_.wait_for(lock, std::chrono::nanoseconds(
                                    std::min<uint64_t>(wait, uint64_t{news_ms} * 1'000'000)));
        if (tries_heeded_ != tries_ || news() || remaining() == 0) {
            return; // heed() comes next; the debt is kept
        }
    }
}

void LazyLoader::complete() {
    if (const auto wrong = forgotten_ == 0 ? ledger_->disproof() : std::nullopt) {
        throw Error("guest memory was not loaded page by page: " + *wrong + ": this is a bug");
    }
    {
        const std::lock_guard installing(installing_);
        for (const Range &range : ranges_) {
            if (!range.forgotten) {
                trap_->release(range.address(), range.bytes());
            }
        }
    }
    ending_ = true;
    trap_->wake();
    demand_.join();
    ended_ns_ = now_ns();
    {
        const std::lock_guard lock(mutex_);
        complete_ = true;
    }
    changed_.notify_all();
    options_.on_complete();
}

// --- Damage

void LazyLoader::note_damage(const Range &range, uint64_t page, const std::string &why) {
    const std::shared_lock installing(installing_);
    if (range.forgotten) {
        return;
    }
    const std::lock_guard lock(mutex_);
    if (ledger_->saved(range.number(page))) {
        return; // another thread has read it well
    }
    damaged_.insert_or_assign(range.number(page), Damage{{&range, page}, why});
    damaged_count_ = damaged_.size();
    changed_.notify_all();
}

void LazyLoader::forget_damage(const Range &range, const PageSpan &run) {
    if (damaged_count_ == 0) {
        return;
    }
    const std::lock_guard lock(mutex_);
    for (uint64_t i = 0; i < run.count; i++) {
        const uint64_t number = range.number(run.first + i);
        if (ledger_->saved(number)) {
            damaged_.erase(number);
        }
    }
    damaged_count_ = damaged_.size();
}

void LazyLoader::fail_for_good(const std::string &why) {
    const std::lock_guard lock(mutex_);
    fatal_ = why;
    changed_.notify_all();
}

void LazyLoader::tell_failure() {
    std::optional<Failure> failure;
    {
        const std::lock_guard lock(mutex_);
        failure = told_ ? std::nullopt : failure_now();
        told_ = told_ || failure;
    }
    if (failure) {
        options_.on_failed(failure->message);
    }
}

std::optional<LazyLoader::Failure> LazyLoader::failure_now() const {
    if (!fatal_.empty()) {
        return Failure{fatal_, "", 0, 0};
    }
    if (damaged_.empty()) {
        return std::nullopt;
    }
    const auto &[place, why] = damaged_.begin()->second;
    Failure failure{"", place.range->image->idstr, place.page * page_bytes,
                    place.range->file_offset(place.page)};
    failure.message = "cannot load the page at offset " + std::to_string(failure.block_offset) +
                      " of memory block \"" + failure.block + "\": " + file_.path() +
                      " at offset " + std::to_string(failure.file_offset) + ": " + why +
                      "; mend the file in its place and continue, or restore another snapshot";
    return failure;
}

// --- Any thread

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
        changed_.wait_for(lock, std::chrono::milliseconds(news_ms));
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
