// SPDX-License-Identifier: GPL-2.0-or-later
#include "save/ring_service.h"

#include "base/error.h"
#include "os/thread.h"

namespace hotsnap::memory {

RingService::RingService(const GuestMemory &memory, KvmTrap &trap, const SaveParts &parts,
                         std::function<void(const std::string &)> on_error)
    : memory_(memory), trap_(trap), on_error_(std::move(on_error)),
      saver_(parts, StagingPool::User::fault) {}

RingService::~RingService() {
    stop();
}

void RingService::start() {
    thread_ = spawn("hs-kvm-ring", [this] { run(); });
}

void RingService::stop() {
    stopping_ = true;
    if (thread_.joinable()) {
        trap_.wake();
        thread_.join();
    }
}

void RingService::quiesce() {
    const std::lock_guard lock(taking_);
}

void RingService::run() {
    try {
        while (!stopping_ && take()) {
            // The wait returns at once while an entry is being filled: give its filler a chance.
            trap_.wait();
            std::this_thread::yield();
        }
    } catch (const std::exception &error) {
        on_error_(error.what());
    }
}

// Takes the copies that are there. False when there is no use in going on.
bool RingService::take() {
    CopyRing &ring = *trap_.ring();
    while (const auto copy = ring.front()) {
        const MemoryBlock *block = memory_.block_of_address(copy->address);
        if (block == nullptr) {
            throw Error("internal: KVM saved a page that is not in the snapshot; report this, the "
                        "image was not kept");
        }
        const uint64_t offset = copy->address - reinterpret_cast<uint64_t>(block->host);
        const std::lock_guard lock(taking_);
        if (!saver_.save_kernels({block, offset / page_bytes, 1}, copy->page)) {
            return false; // the pool is closed: an abort is on its way
        }
        saver_.rest(); // it may take long until KVM saves another page
        ring.pop();
    }
    if (ring.overflow()) {
        trap_.drain();
    }
    if (ring.lost()) {
        throw Error("the host had no memory left for KVM to save a page before it wrote to it; "
                    "free memory on the host and take the snapshot again");
    }
    return true;
}

} // namespace hotsnap::memory
