// SPDX-License-Identifier: GPL-2.0-or-later
#include "cases.h"

#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>

namespace hotsnap::kvmtest {

void Cases::run(const std::string &name, const std::function<void()> &act) {
    unknown_.erase(name);
    if (left_out_.contains(name) || (!chosen_.empty() && !chosen_.contains(name))) {
        return;
    }
    const auto began = std::chrono::steady_clock::now();
    try {
        act();
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
        std::printf("ok %s # %.1f s\n", name.c_str(), took.count());
    } catch (const Skipped &reason) {
        std::printf("skip %s - %s\n", name.c_str(), reason.what());
    } catch (const std::exception &error) {
        std::printf("not ok %s - %s\n", name.c_str(), error.what());
        failures_++;
    }
    std::fflush(stdout);
}

std::vector<std::byte> copy_of(const Memory &memory) {
    return {memory.at(0), memory.at(0) + memory.bytes()};
}

size_t page_of(const Memory &memory, const kvm_hotsnap_exit &exit) {
    return (exit.hva - memory.address()) / page;
}

std::string parameter(const std::string &path) {
    std::ifstream file("/sys/module/" + path);
    std::string value;
    file >> value;
    return value;
}

bool shadow_paging() {
    return parameter("kvm_amd/parameters/npt") == "N" ||
           parameter("kvm_intel/parameters/ept") == "N";
}

PageTables::PageTables(const Memory &memory) {
    constexpr size_t entries = page / sizeof(uint32_t);
    constexpr uint32_t usable = 3; // present, writable
    constexpr uint32_t accessed = 1 << 5, written = 1 << 6;
    uint32_t directories[entries] = {table * page | usable | accessed,
                                     second_table * page | usable | accessed};
    uint32_t low[entries], high[entries];
    for (uint32_t i = 0; i < entries; i++) {
        low[i] = i * page | usable | accessed | written;
        high[i] = i * page | usable;
    }
    std::memcpy(memory.at(directory * page), directories, page);
    std::memcpy(memory.at(table * page), low, page);
    std::memcpy(memory.at(second_table * page), high, page);
}

} // namespace hotsnap::kvmtest
