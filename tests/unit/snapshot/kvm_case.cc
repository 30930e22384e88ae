// SPDX-License-Identifier: GPL-2.0-or-later
#include "kvm_case.h"

#include <algorithm>

namespace hotsnap::memory::test {

namespace {

const std::vector<std::byte> head(12, std::byte{'h'});

uint64_t next(uint64_t &state) { // xorshift64
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

} // namespace

KvmCase::KvmCase(std::vector<const Region *> regions, uint32_t ring_entries)
    : kvm(ring_entries), regions_(std::move(regions)) {
    options.image_path = folder.path("state");
    options.sums_path = folder.path("state.sums");
    options.stream.head = head;
    options.stream.section_id = 2;
    options.stream.version_id = 4;
    options.stream.section_footer = true;
    options.on_finished = [this](const char *error) {
        const std::lock_guard lock(mutex_);
        result_ = error == nullptr ? "" : error;
        finished_.notify_all();
    };
}

KvmCase::~KvmCase() {
    if (session_) {
        session_->abort("the test is over");
    }
    stop_actors();
}

void KvmCase::create() {
    std::vector<MemoryBlock> blocks;
    for (const Region *region : regions_) {
        MemoryBlock block = block_of(*region);
        if (adjust) {
            adjust(block);
        }
        blocks.push_back(block);
    }
    std::unique_ptr<WriteTrap> trap;
    if (confirms) {
        trap = std::make_unique<KvmTrap>(kvm.calls(), arm_flags);
    } else {
        trap = std::make_unique<Unconfirmed>(kvm.calls(), arm_flags);
    }
    session_ = std::make_unique<Session>(options, std::move(blocks), std::move(trap));
    session_->arm(1'000'000);
}

void KvmCase::cut() {
    session_->cut();
    told_ = session_.get();
}

std::string KvmCase::wait() {
    std::unique_lock lock(mutex_);
    finished_.wait(lock, [this] { return result_.has_value(); });
    return *result_;
}

hs_snapshot_stats KvmCase::stats() const {
    hs_snapshot_stats stats{};
    session_->get_stats(stats);
    return stats;
}

LoadedImage KvmCase::load() const {
    return load_image(options.image_path, head, true, 2);
}

// An address in the first half of a region.
std::byte *KvmCase::somewhere(uint64_t &state) const {
    const Region &region = *regions_[next(state) % regions_.size()];
    return region.memory() + next(state) % (region.length() / 2) / 8 * 8;
}

void KvmCase::run(int threads, std::function<void(std::byte *, uint64_t)> write) {
    for (int i = 0; i < threads; i++) {
        actors_.emplace_back([this, write, seed = actors_.size() * 77 + 1] {
            uint64_t state = seed;
            while (!stopping_) {
                if (paused_) {
                    parked_++;
                    while (paused_ && !stopping_) {
                        std::this_thread::yield();
                    }
                    parked_--;
                }
                std::byte *at = somewhere(state);
                write(at, state);
                // Other threads need a processor too.
                if (state % 64 == 0) {
                    std::this_thread::yield();
                }
            }
        });
    }
}

void KvmCase::run_vcpus(int threads) {
    run(threads, [this](std::byte *at, uint64_t value) {
        while (kvm.guest_exits(at)) {
            Session *session = told_;
            if (session != nullptr && !session->before_guest_write(at)) {
                std::abort();
            }
        }
        guest_write(at, static_cast<uint8_t>(value));
    });
}

void KvmCase::run_devices(int threads) {
    run(threads, [this](std::byte *at, uint64_t value) {
        const Region &region = *regions_.front();
        const auto left = at >= region.memory() && at < region.memory() + region.length()
                              ? static_cast<uint64_t>(region.memory() + region.length() - at)
                              : 8;
        const uint64_t size = std::min<uint64_t>(left, value % 20000 + 8);
        if (Session *session = told_) {
            session->before_dma_write(at, size);
        }
        guest_write(at, static_cast<uint8_t>(value));
        guest_write(at + size - 1, static_cast<uint8_t>(value));
    });
}

void KvmCase::run_kvm(int threads) {
    run(threads, [this](std::byte *at, uint64_t value) {
        kvm.before_write(at);
        guest_write(at, static_cast<uint8_t>(value));
    });
}

void KvmCase::pause() {
    paused_ = true;
    while (parked_ < actors_.size()) {
        std::this_thread::yield();
    }
}

void KvmCase::stop_actors() {
    stopping_ = true;
    for (std::thread &actor : actors_) {
        actor.join();
    }
    actors_.clear();
}

} // namespace hotsnap::memory::test
