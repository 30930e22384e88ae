// SPDX-License-Identifier: GPL-2.0-or-later
#include "save/session.h"

#include "access/access_file.h"
#include "base/clock.h"
#include "base/error.h"
#include "image/image_dump.h"
#include "os/thread.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <unistd.h>

namespace hotsnap::memory {

namespace {

constexpr uint64_t default_staging_bytes = 64 << 20;
constexpr uint64_t default_cluster_pages = 16;
constexpr uint64_t most_cluster_pages = 256;
constexpr uint64_t reserve_pages = 64; // held back for a deadline: 256 KiB, 0.1 to 0.2 ms
constexpr uint64_t space_margin = 16 << 20;

uint64_t cluster_pages_of(const SnapshotOptions &options) {
    const uint64_t pages =
        options.tuning.cluster_pages == 0 ? default_cluster_pages : options.tuning.cluster_pages;
    if (!std::has_single_bit(pages) || pages > most_cluster_pages) {
        throw Error("cluster_pages must be a power of two, at most 256");
    }
    return pages;
}

// Room for two of the largest unit on each side, faults and background copy.
uint64_t slots_of(const SnapshotOptions &options, const GuestMemory &memory) {
    const uint64_t bytes =
        options.tuning.staging_bytes == 0 ? default_staging_bytes : options.tuning.staging_bytes;
    const uint64_t unit = std::max(memory.largest_unit_pages(), cluster_pages_of(options));
    return std::max(bytes / group_bytes, 4 * ((unit + group_pages - 1) / group_pages));
}

std::vector<MemoryBlock> as_trapped(std::vector<MemoryBlock> blocks, const WriteTrap &trap) {
    for (MemoryBlock &block : blocks) {
        block.split = trap.has_bitmap();
    }
    return blocks;
}

} // namespace

Session::Session(SnapshotOptions options, std::vector<MemoryBlock> blocks,
                 std::unique_ptr<WriteTrap> trap)
    : options_(std::move(options)), trap_(std::move(trap)),
      memory_(as_trapped(std::move(blocks), *trap_)), layout_(options_.stream, memory_),
      ledger_(memory_.pages()), pool_(slots_of(options_, memory_), slots_of(options_, memory_) / 2),
      pace_(options_.tuning.bandwidth, std::max(reserve_pages, memory_.largest_unit_pages())) {
    try {
        prepare();
    } catch (...) {
        // In slices; closing the descriptor would do it in one piece, and stop the VM meanwhile.
        trap_->detach(false);
        if (writer_) {
            unlink(options_.image_path.c_str());
        }
        if (sums_fd_) {
            unlink(options_.sums_path.c_str());
        }
        throw;
    }
}

void Session::prepare() {
    const uint64_t cluster_pages = cluster_pages_of(options_);
    trap_->attach(memory_);
    reader_ = std::make_unique<PageReader>(memory_, trap_->absent_pagemap_entry());
    check_space();
    bool direct = false;
    sums_fd_ = create_exclusive(options_.sums_path, direct);
    writer_ =
        std::make_unique<ImageWriter>(options_.image_path, layout_.pages_end(), pool_, aborter());
    const SaveParts parts{*trap_, ledger_, pool_, *reader_, layout_, *writer_, accesses_};
    // A neighbor that was not written would be copied again.
    const uint64_t tracked_pages = options_.precopy ? 1 : cluster_pages;
    faults_ = std::make_unique<FaultService>(memory_, parts, dirty_, options_.vcpu_tids,
                                             cluster_pages, tracked_pages, aborter());
    Arming::OnWritten on_written; // without a precopy there is nothing to forget, in the pause too
    if (options_.precopy) {
        on_written = [this](const std::vector<PageRun> &runs) { reopen(ledger_, runs); };
    }
    arming_ = std::make_unique<Arming>(memory_, *trap_, dirty_, std::move(on_written), aborter());
    copier_ = std::make_unique<Copier>(memory_, parts, pace_);
    if (options_.precopy) {
        precopy_ = std::make_unique<Precopy>(*arming_, ledger_, *copier_, *writer_, aborter());
    }
    if (auto *kvm = dynamic_cast<KvmTrap *>(trap_.get())) {
        ring_ = std::make_unique<RingService>(memory_, *kvm, parts, aborter());
        writers_ = std::make_unique<WriterService>(memory_, parts, cluster_pages, aborter());
        ring_->start();
    } else if (trap_->traps()) {
        faults_->start();
    }
}

Session::~Session() {
    abort("the snapshot was given up");
    if (thread_.joinable()) {
        thread_.join();
    }
    // Each part before the parts that it uses.
    precopy_.reset();
    copier_.reset();
    writers_.reset();
    ring_.reset();
    arming_.reset();
    faults_.reset();
    writer_.reset();
}

std::function<void(const std::string &)> Session::aborter() {
    return [this](const std::string &message) { abort(message); };
}

void Session::check_space() const {
    const uint64_t data = reader_->resident_bytes(pool_.slots() * group_bytes);
    const uint64_t sums = layout_.pages_end() / page_bytes * sizeof(uint64_t);
    const uint64_t needed = data + sums + space_margin;
    const uint64_t free = free_bytes_for(options_.image_path);
    if (free < needed) {
        throw Error("too little space for " + options_.image_path + ": " + std::to_string(needed) +
                    " bytes are needed, " + std::to_string(free) +
                    " are free; free space there or choose another folder");
    }
}

void Session::require(Phase phase, const char *call) const {
    const std::lock_guard lock(state_mutex_);
    if (stopped_) {
        throw Error(reason_);
    }
    if (phase_ != phase) {
        throw Error(std::string(call) + " was called out of order");
    }
}

bool Session::precopy() {
    require(Phase::created, "hs_snapshot_precopy");
    if (!precopy_) {
        throw Error("hs_snapshot_precopy is for a snapshot with the option precopy");
    }
    if (!precopy_->run_to_verdict()) {
        require(Phase::created, "hs_snapshot_precopy"); // says why it was stopped
    }
    return precopy_->figures().converged;
}

void Session::arm(uint64_t max_us) {
    require(Phase::created, "hs_snapshot_arm");
    if (precopy_) {
        precopy_->end();
    }
    if (!trap_->has_bitmap()) {
        arming_->start();
        if (!arming_->wait_converged(max_us)) {
            require(Phase::created, "hs_snapshot_arm"); // says why it was stopped
        }
    }
    const std::lock_guard lock(state_mutex_);
    phase_ = Phase::armed;
}

void Session::cut() {
    const uint64_t begin = now_ns();
    require(Phase::armed, "hs_snapshot_cut");
    arming_->stop();
    {
        FaultService::Quiet quiet(*faults_);
        // An abort is either over, and then stopped_ is seen here, or has to wait for this quiet
        // before it releases the memory.
        require(Phase::armed, "hs_snapshot_cut");
        if (trap_->has_bitmap()) {
            trap_->cut();
            writers_->start();
            save_untrapped();
        } else {
            cut_pages_ = arming_->finish();
            quiet.set_mode(FaultService::Mode::cow);
        }
    }
    {
        const std::lock_guard lock(state_mutex_);
        phase_ = Phase::cut;
    }
    accesses_.begin(begin);
    cut_us_ = ns_to_us(now_ns() - begin);
}

// Saves, in the pause, the blocks that are written where no trap sees it.
void Session::save_untrapped() {
    PageSaver saver({*trap_, ledger_, pool_, *reader_, layout_, *writer_, accesses_},
                    StagingPool::User::fault);
    for (const MemoryBlock &block : memory_.blocks()) {
        if (!block.save_at_cut) {
            continue;
        }
        const PageRun all{&block, 0, block.pages()};
        std::vector<bool> absent(all.count);
        reader_->find_absent(all, absent);
        if (!saver.save(all, absent, Manner::background, {})) {
            return; // the pool is closed: an abort is on its way
        }
    }
    saver.rest();
}

bool Session::before_guest_write(const void *host) {
    return !writers_ || writers_->before_write(host, 1, Manner::guest_write);
}

void Session::before_dma_write(const void *host, size_t size) {
    if (writers_ && !options_.open_dma_trap) {
        writers_->before_write(host, size, Manner::dma_write);
    }
}

void Session::dump(const std::string &path) {
    require(Phase::cut, "hs_snapshot_dump");
    dump_image(memory_, layout_, path);
}

void Session::start(std::span<const std::byte> tail) {
    require(Phase::cut, "hs_snapshot_start");
    tail_.assign(tail.begin(), tail.end());
    const std::lock_guard lock(state_mutex_);
    if (stopped_) {
        throw Error(reason_);
    }
    started_ns_ = now_ns();
    thread_ = spawn("hs-snapshot", [this] { copy_and_finish(); });
    phase_ = Phase::copying;
}

void Session::copy_and_finish() {
    try {
        trap_->after_resume();
        copied_ns_ = copier_->run();
        if (options_.on_copied && ledger_.saved_pages() == ledger_.pages()) {
            options_.on_copied();
        }
        complete_image();
    } catch (const std::exception &error) {
        abort(error.what());
    }
    std::string failure;
    {
        // An abort that is under way finishes first: then everything is released.
        const std::lock_guard no_abort(stopping_mutex_);
        const std::lock_guard lock(state_mutex_);
        if (stopped_) {
            failure = reason_;
        } else {
            phase_ = Phase::finished;
        }
    }
    if (options_.on_finished) {
        options_.on_finished(failure.empty() ? nullptr : failure.c_str());
    }
}

void Session::complete_image() {
    if (const auto wrong = ledger_.disproof()) {
        const std::lock_guard lock(state_mutex_);
        if (stopped_) {
            return;
        }
        throw Error("internal: ledger: " + *wrong + "; report this, the image was not kept");
    }
    {
        // Every page is saved, and the thread that saved a page releases it. The copier has done
        // so; once the fault thread has no fault in hand, it has done so too.
        const FaultService::Quiet quiet(*faults_);
    }
    if (trap_->has_bitmap()) {
        // The same for the threads that save here: they leave only when the writer has their pages.
        writers_->stop();
        ring_->quiesce();
    }
    // Pages that were saved before the cut may be protected still.
    trap_->detach(precopy_ == nullptr);
    if (!writer_->drain()) {
        return; // stopped
    }
    const auto pieces =
        layout_.metadata([this](uint64_t page) { return ledger_.has_data(page); }, tail_);
    for (const ImageLayout::Piece &piece : pieces) {
        writer_->write_metadata(piece.offset, piece.bytes);
    }
    image_size_ = ImageLayout::size(pieces);
    writer_->finish(image_size_);
    sums_xxh3_ = write_sums(writer_->sums(), sums_fd_.get(), options_.sums_path);
    durable_ns_ = now_ns();
    if (!options_.access_path.empty()) {
        write_access_file(options_.access_path, AccessMap(accesses_.accesses()), sums_xxh3_);
    }
}

void Session::abort(const std::string &reason) {
    const std::lock_guard only_one(stopping_mutex_);
    {
        const std::lock_guard lock(state_mutex_);
        if (stopped_ || phase_ == Phase::finished) {
            return;
        }
        stopped_ = true;
        reason_ = reason;
    }
    stop_everything();
}

void Session::stop_everything() {
    // First the things that threads may be waiting for, then those threads, then the memory.
    pool_.close();
    pace_.cancel();
    writer_->discard();
    arming_->stop();
    if (precopy_) {
        precopy_->stop();
    }
    {
        FaultService::Quiet quiet(*faults_);
        quiet.set_mode(FaultService::Mode::discard);
    }
    copier_->stop();
    if (writers_) {
        writers_->stop();
    }
    trap_->detach(false);
    unlink(options_.image_path.c_str());
    unlink(options_.sums_path.c_str());
}

void Session::get_stats(hs_snapshot_stats &stats) const {
    const PageLedger::Counts counts = ledger_.counts();
    const auto manner = [&](Manner m) { return counts.by_manner[static_cast<size_t>(m)]; };
    stats.pages.total = ledger_.pages();
    stats.pages.zero = counts.zero;
    stats.pages.background = manner(Manner::background);
    stats.pages.guest_write = manner(Manner::guest_write);
    stats.pages.dma_write = manner(Manner::dma_write);
    stats.pages.kvm_write = manner(Manner::kvm_write);
    stats.pages.precopy = manner(Manner::precopy);
    stats.pages.neighbors = counts.neighbors;
    stats.bytes_total = memory_.bytes();
    stats.bytes_done = ledger_.saved_pages() * page_bytes;
    stats.bytes_written = writer_->bytes_written();
    stats.bandwidth = pace_.bandwidth();
    const FaultCounts &faults = writers_ ? writers_->counts() : faults_->counts();
    stats.faults = faults.answered;
    stats.fault_us_max = faults.us_max;
    stats.fault_us_sum = faults.us_sum;
    stats.staging_full_waits =
        writers_ ? writers_->full_waits() + ring_->full_waits() : faults_->full_waits();
    stats.arm_passes = arming_->passes();
    stats.arm_us = arming_->converge_us();
    stats.arm_faults = faults_->tracked();
    if (precopy_) {
        const Precopy::Figures figures = precopy_->figures();
        stats.precopy_rounds = figures.rounds;
        stats.precopy_pages = figures.pages;
        stats.precopy_us = figures.us;
        stats.precopy_written = figures.written;
        stats.precopy_converged = figures.converged;
    }
    stats.cut_pages = cut_pages_;
    stats.cut_us = cut_us_;
    get_times(stats);
    stats.image_size = image_size_;
    stats.sums_xxh3 = sums_xxh3_;
    stats.direct_io = writer_->direct();
    std::strncpy(stats.engine, trap_->name(), sizeof(stats.engine) - 1);
}

void Session::get_times(hs_snapshot_stats &stats) const {
    const uint64_t started = started_ns_;
    if (started == 0) {
        return;
    }
    // At least 1, even for a deadline before the start: 0 means that there is none.
    const auto us_to = [&](uint64_t instant) {
        return instant > started ? ns_to_us(instant - started) : 1;
    };
    const uint64_t copied = copied_ns_;
    stats.copied_ns = copied;
    stats.copy_us = us_to(copied != 0 ? copied : now_ns());
    if (const uint64_t deadline = pace_.deadline(); deadline != 0) {
        stats.deadline_us = us_to(deadline);
    }
    if (const uint64_t end = copied != 0 ? copied : pace_.expected_end(); end != 0) {
        stats.expected_us = us_to(end);
        stats.expected_ns = end;
    }
    if (const uint64_t durable = durable_ns_; durable != 0) {
        stats.durable_us = us_to(durable);
    }
}

} // namespace hotsnap::memory
