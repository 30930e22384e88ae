// SPDX-License-Identifier: GPL-2.0-or-later
#include "lazy_case.h"

#include "image/checksums.h"
#include "os/file.h"
#include "snapshot_case.h"

#include <chrono>
#include <fcntl.h>
#include <filesystem>
#include <random>
#include <stdexcept>
#include <thread>
#include <unistd.h>

namespace hotsnap::memory::test {

namespace {

std::string taken(char *error) {
    const std::string text = error == nullptr ? "no message" : error;
    hs_string_free(error);
    return text;
}

} // namespace

SavedImage::SavedImage(const std::vector<const Region *> &regions) {
    Snapshot snapshot(regions);
    for (const std::string &error :
         {snapshot.create(), snapshot.arm(), snapshot.cut(), snapshot.start(), snapshot.wait()}) {
        if (!error.empty()) {
            throw std::runtime_error(error);
        }
    }
    sums_xxh3 = snapshot.stats().sums_xxh3;
    image = folder.path("state");
    sums = folder.path("state.sums");
    std::filesystem::copy(snapshot.image, image);
    std::filesystem::copy(snapshot.sums, sums);
}

void SavedImage::flip(uint64_t offset) const {
    const Fd fd(open(image.c_str(), O_RDWR | O_CLOEXEC));
    unsigned char byte = 0;
    if (pread(fd.get(), &byte, 1, static_cast<off_t>(offset)) != 1) {
        throw std::runtime_error("no byte to flip");
    }
    byte ^= 0x10;
    if (pwrite(fd.get(), &byte, 1, static_cast<off_t>(offset)) != 1) {
        throw std::runtime_error("cannot flip a byte");
    }
}

void SavedImage::truncate(uint64_t size) const {
    std::filesystem::resize_file(image, size);
}

uint64_t SavedImage::size() const {
    return std::filesystem::file_size(image);
}

void SavedImage::sum_again() {
    std::filesystem::remove(sums);
    char *error = nullptr;
    if (!hs_sums_write(image.c_str(), sums.c_str(), page_bytes, &sums_xxh3, nullptr, &error)) {
        throw std::runtime_error(taken(error));
    }
}

uint64_t SavedImage::pages_offset(const std::string &block) const {
    return load_image(image, Snapshot::head, true, 2).blocks.at(block).pages_offset;
}

Load::Load(const SavedImage &saved) {
    hs_load_options_init(&options);
    options.image_path = saved.image.c_str();
    options.sums_path = saved.sums.c_str();
    options.sums_xxh3 = saved.sums_xxh3;
    options.ram_section_id = 2;
    options.opaque = this;
    options.on_failed = [](void *opaque, const char *) { static_cast<Load *>(opaque)->failures++; };
    options.on_complete = [](void *opaque) { static_cast<Load *>(opaque)->completions++; };
}

Load::~Load() {
    if (abandon) {
        return; // as a VM that ends
    }
    if (changed) {
        wait();
    }
    hs_load_free(handle_);
}

std::string Load::open() {
    char *error = nullptr;
    handle_ = hs_load_open(&options, &error);
    return handle_ != nullptr ? "" : taken(error);
}

std::string Load::attach(const std::vector<const Region *> &regions) {
    std::vector<hs_ram_block> blocks;
    for (const Region *region : regions) {
        blocks.push_back(region->block());
    }
    char *error = nullptr;
    return hs_load_attach(handle_, blocks.data(), blocks.size(), &changed, &error) ? ""
                                                                                   : taken(error);
}

std::string Load::wait() {
    char *error = nullptr;
    return hs_load_wait(handle_, nullptr, &error) ? "" : taken(error);
}

hs_load_stats Load::stats() const {
    hs_load_stats stats{};
    stats.struct_size = sizeof(stats);
    hs_load_get_stats(handle_, &stats);
    return stats;
}

int misread(const Region &target, const Region &source, int places) {
    std::atomic<int> wrong = 0;
    std::vector<std::thread> threads;
    for (unsigned seed = 0; seed < 4; seed++) {
        threads.emplace_back([&, seed] {
            std::mt19937 random(seed);
            for (int i = 0; i < places; i++) {
                const uint64_t at = random() % target.length();
                wrong +=
                    guest_read(target.memory() + at) != static_cast<uint8_t>(source.memory()[at]);
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    return wrong;
}

bool eventually(const std::function<bool()> &condition) {
    for (int i = 0; i < 20'000; i++) {
        if (condition()) {
            return true;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
}

} // namespace hotsnap::memory::test
