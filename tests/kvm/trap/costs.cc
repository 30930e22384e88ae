// SPDX-License-Identifier: GPL-2.0-or-later
//
// The cost of arming, and the cost for a VM without traps. The numbers are printed, not judged.
#include "cases.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

namespace hotsnap::kvmtest {

namespace {

int64_t microseconds(const std::function<void()> &act) {
    const auto begin = std::chrono::steady_clock::now();
    act();
    return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() -
                                                                 begin)
        .count();
}

int64_t median(std::vector<int64_t> values) {
    std::ranges::nth_element(values, values.begin() + static_cast<ptrdiff_t>(values.size() / 2));
    return values[values.size() / 2];
}

// The cost of arming by size (median of five), beside that of starting dirty logging, which
// write-protects every page.
void cost_of_arming() {
    for (const size_t size : {64 * MiB, 256 * MiB, 1024 * MiB}) {
        Memory memory(size);
        Machine machine(memory);
        std::vector<int64_t> arms, reaps, logs;
        for (int round = 0; round < 5; round++) {
            machine.write(page, memory.pages() - 1, page);
            logs.push_back(
                microseconds([&] { machine.set_slot(0, 0, size, KVM_MEM_LOG_DIRTY_PAGES); }));
            machine.set_slot(0, 0, size, 0);
            machine.write(page, memory.pages() - 1, page);
            const Trap trap(machine);
            arms.push_back(microseconds([&] { trap.arm(); }));
            reaps.push_back(microseconds([&] { trap.reap(); }));
        }
        std::printf("# %zu MiB mapped: arm %lld us, later reap %lld us; dirty logging on %lld us\n",
                    size / MiB, static_cast<long long>(median(arms)),
                    static_cast<long long>(median(reaps)), static_cast<long long>(median(logs)));
    }
}

} // namespace

// The cost of KVM's traps for a VM without traps: to be compared with a KVM that has none, where
// time is counted in instructions, as in Bochs.
void cost_when_unused() {
    std::vector<int64_t> faults, writes;
    for (int round = 0; round < 5; round++) {
        Memory memory(64 * MiB);
        memory.fill(12);
        Machine machine(memory);
        faults.push_back(microseconds([&] { machine.write(page, memory.pages() - 1, page); }));
        writes.push_back(microseconds([&] {
            for (int i = 0; i < 200; i++) {
                machine.port_to_memory(first * page, 64);
            }
        }));
    }
    std::printf("# unused: 16383 write faults %lld us, 200 emulated writes of 64 bytes %lld us\n",
                static_cast<long long>(median(faults)), static_cast<long long>(median(writes)));
}

void cost_cases(Cases &cases) {
    cases.run("trap-cost-of-arming", cost_of_arming);
}

} // namespace hotsnap::kvmtest
