// SPDX-License-Identifier: GPL-2.0-or-later
#include "save/writer_service.h"

#include "base/clock.h"
#include "os/thread.h"

#include <algorithm>
#include <optional>

namespace hotsnap::memory {

// Sequentially consistent on both sides: either stop() sees the visitor, or the visitor sees that
// the service was stopped.
class WriterService::Visit {
  public:
    explicit Visit(WriterService &service) : service_(service) { service_.inside_++; }
    ~Visit() { service_.inside_--; }
    Visit(const Visit &) = delete;
    Visit &operator=(const Visit &) = delete;

    bool welcome() const { return service_.state_ == State::active; }

  private:
    WriterService &service_;
};

WriterService::WriterService(const GuestMemory &memory, const SaveParts &parts,
                             uint64_t cluster_pages,
                             std::function<void(const std::string &)> on_error)
    : memory_(memory), parts_(parts), cluster_pages_(cluster_pages),
      on_error_(std::move(on_error)) {}

void WriterService::start() {
    State idle = State::idle;
    state_.compare_exchange_strong(idle, State::active);
}

void WriterService::stop() {
    state_ = State::stopped;
    for (int spins = 0; inside_ != 0; spins++) {
        pause_in_spin(spins);
    }
}

bool WriterService::before_write(const void *host, size_t size, Manner manner) {
    const auto address = reinterpret_cast<uint64_t>(host);
    const MemoryBlock *block = memory_.block_of_address(address);
    if (block == nullptr) {
        return false;
    }
    const uint64_t offset = address - reinterpret_cast<uint64_t>(block->host);
    const uint64_t end = std::min(block->length, offset + size);
    if (offset >= end) {
        return true;
    }
    const uint64_t first = offset / page_bytes;
    const PageRun run{block, first, (end + page_bytes - 1) / page_bytes - first};
    if (parts_.trap.confirmed(run)) {
        return true;
    }
    std::optional<std::string> error;
    {
        const Visit visit(*this);
        if (!visit.welcome()) {
            return true;
        }
        const uint64_t begin = now_ns();
        try {
            PageSaver *saver = take_saver();
            try {
                save_run(*saver, run, manner);
                saver->rest();
            } catch (...) {
                saver->rest();
                put_saver(saver);
                throw;
            }
            put_saver(saver);
        } catch (const std::exception &failure) {
            error = failure.what();
        }
        counts_.add(ns_to_us(now_ns() - begin));
    }
    if (error) {
        on_error_(*error); // aborts, which waits until no thread is inside
    }
    return true;
}

void WriterService::save_run(PageSaver &saver, const PageRun &run, Manner manner) {
    const uint64_t end = run.first + run.count;
    for (uint64_t page = run.first; page < end;) {
        const PageRun cluster = GuestMemory::aligned_run(*run.block, page, cluster_pages_);
        const uint64_t stop = std::min(end, cluster.first + cluster.count);
        const PageRun wanted{run.block, page, stop - page};
        page = stop;
        if (parts_.trap.confirmed(wanted)) {
            continue;
        }
        std::vector<bool> absent;
        if (run.block->shared) {
            // Reading a neighbor that nothing backs would give it memory for good.
            absent.resize(cluster.count);
            parts_.reader.find_absent(cluster, absent);
        }
        if (!saver.save(cluster, absent, manner, {wanted.first, wanted.count})) {
            return; // the pool is closed: an abort is on its way, and nothing will be kept
        }
        // Pages that other threads have claimed are being copied at this moment.
        for (int spins = 0; !parts_.trap.confirmed(wanted); spins++) {
            pause_in_spin(spins);
        }
    }
}

PageSaver *WriterService::take_saver() {
    const std::lock_guard lock(savers_mutex_);
    if (free_savers_.empty()) {
        savers_.push_back(std::make_unique<PageSaver>(parts_, StagingPool::User::fault));
        return savers_.back().get();
    }
    PageSaver *saver = free_savers_.back();
    free_savers_.pop_back();
    return saver;
}

void WriterService::put_saver(PageSaver *saver) {
    const std::lock_guard lock(savers_mutex_);
    free_savers_.push_back(saver);
}

uint64_t WriterService::full_waits() const {
    const std::lock_guard lock(savers_mutex_);
    uint64_t sum = 0;
    for (const auto &saver : savers_) {
        sum += saver->full_waits();
    }
    return sum;
}

} // namespace hotsnap::memory
