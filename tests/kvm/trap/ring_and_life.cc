// SPDX-License-Identifier: GPL-2.0-or-later
//
// The ring when it is full, all writers at once, and the traps' life: refused requests, the end,
// late reaping, a killed process.
#include "cases.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <set>
#include <system_error>
#include <thread>

namespace hotsnap::kvmtest {

namespace {

void refused(const Machine &machine, std::vector<Trap::Region> regions, uint32_t entries,
             int expected) {
    try {
        const Trap trap(machine, std::move(regions), entries);
    } catch (const std::system_error &error) {
        check(error.code().value() == expected, std::string("refused with ") + error.what());
        return;
    }
    throw Failed("not refused");
}

void wrong_requests() {
    Memory memory(4 * MiB);
    const Machine machine(memory);
    refused(machine, {}, 64, EINVAL);
    refused(machine, {{0, MiB}}, 63, EINVAL);
    refused(machine, {{0, MiB}}, 0, EINVAL);
    refused(machine, {{0, MiB}}, 8192, EINVAL);
    refused(machine, {{0, 0}}, 64, EINVAL);
    refused(machine, {{0, 100}}, 64, EINVAL);
    refused(machine, {{100, page}}, 64, EINVAL);
    refused(machine, {{0, MiB}, {MiB - page, MiB}}, 64, EINVAL);
    refused(machine, {{0, size_t{1} << 40}}, 64, EINVAL);
    Trap trap(machine);
    refused(machine, {{0, MiB}}, 64, EBUSY);
    trap.arm();
    try {
        trap.arm();
        throw Failed("armed twice");
    } catch (const std::system_error &error) {
        check(error.code().value() == EBUSY, error.what());
    }
    trap.close();
    Trap again(machine);
}

void full_ring() {
    Memory memory(4 * MiB);
    memory.fill(5);
    Machine machine(memory);
    const auto before = copy_of(memory);
    const Trap trap(machine, {{0, memory.bytes()}}, 2);
    trap.arm();
    constexpr size_t pages = 100;
    for (size_t i = first; i < first + pages; i++) {
        machine.port_to_memory(i * page, 8);
    }
    check(trap.ring().overflow >= pages - 2, "the ring did not overflow: this proves nothing");
    std::set<size_t> seen;
    trap.take([&](size_t i, const std::byte *data) {
        check(seen.insert(i).second, "a page came twice");
        check(std::memcmp(data, before.data() + i * page, page) == 0, "not as it was");
    });
    check(seen.size() == pages, std::to_string(seen.size()) + " pages came");
    check(trap.ring().lost == 0 && trap.ring().overflow == 0, "the ring's counts are wrong");
}

// Two vCPUs write, KVM writes, and a copier goes through memory, all at once: the snapshot must be
// the memory at the cut. Returns how many pages differ.
size_t race(uint32_t flags) {
    constexpr size_t pages = 1024;
    Memory memory(pages * page);
    memory.fill(6);
    Machine machine(memory, {.vcpus = 2});
    machine.write(first * page, pages - first, page);
    const auto before = copy_of(memory);
    std::vector<std::byte> snapshot(memory.bytes());
    std::vector<std::atomic<int>> saves(pages);
    const Trap trap(machine, {{0, memory.bytes()}}, 16);
    trap.arm(flags);

    const auto put = [&](size_t i, const std::byte *data) {
        std::memcpy(snapshot.data() + i * page, data, page);
        saves[i]++;
    };
    // User space's own writers and copier agree by a claim; against KVM they copy first.
    std::vector<std::atomic<bool>> claimed(pages);
    const auto save = [&](size_t i) {
        if (claimed[i].exchange(true)) {
            while (!trap.saved(i)) {
            }
            return;
        }
        std::byte copy[page];
        std::memcpy(copy, memory.at(i * page), page);
        if (trap.claim(i)) {
            put(i, copy);
        }
    };
    const auto on_exit = [&](const kvm_hotsnap_exit &exit) { save(page_of(memory, exit)); };

    std::thread forward([&] { machine.write(first * page, pages - first, page, on_exit, 0); });
    std::thread backward([&] {
        for (size_t i = pages - 1; i >= first; i -= 7) {
            machine.port_to_memory(i * page + 16, 8, 1);
            machine.write((i - 3) * page + 32, 1, page, on_exit, 1);
        }
    });
    std::thread copier([&] {
        for (size_t i = 0; i < pages; i++) {
            save(i * 521 % pages);
        }
    });
    std::atomic<bool> stopping{false};
    std::thread ring([&] {
        while (!stopping) {
            trap.take(put);
        }
    });
    forward.join();
    backward.join();
    copier.join();
    stopping = true;
    ring.join();
    trap.take(put);

    size_t wrong = 0;
    for (size_t i = first; i < pages; i++) {
        check(saves[i] == 1,
              "page " + std::to_string(i) + " was saved " + std::to_string(saves[i]) + " times");
        wrong += std::memcmp(snapshot.data() + i * page, before.data() + i * page, page) != 0;
    }
    return wrong;
}

void races() {
    for (int round = 0; round < 10; round++) {
        const size_t wrong = race(0);
        check(wrong == 0,
              std::to_string(wrong) + " pages differ in round " + std::to_string(round));
    }
}

void open_trap(uint32_t flags) {
    for (int round = 0; round < 10; round++) {
        if (race(flags) > 0) {
            return;
        }
    }
    throw Failed("with an open trap all pages are right: the test sees nothing");
}

void disarmed() {
    Memory memory(4 * MiB);
    Machine machine(memory);
    const Trap trap(machine);
    trap.arm();
    machine.read(first * page, 64, page);
    trap.disarm();
    machine.write(first * page, 64, page);
    machine.port_to_memory(200 * page, 8);
    check(trap.take([](size_t, const std::byte *) {}) == 0, "a page came");
    Memory other(4 * MiB);
    Machine second(other);
    {
        Trap closed(second);
        closed.arm();
        second.read(first * page, 64, page);
    }
    second.write(first * page, 64, page);
}

void reaped_late() {
    Memory memory(64 * MiB);
    memory.fill(7);
    Machine machine(memory);
    machine.write(first * page, memory.pages() - first, page);
    const Trap trap(machine);
    trap.arm();
    trap.release(0, memory.bytes());
    machine.write(first * page, 1000, page);
    // The deletion of a slot drops all page tables, old ones included.
    machine.set_slot(1, Machine::alias, MiB);
    machine.set_slot(1, Machine::alias, 0);
    trap.reap();
    trap.reap();
    machine.write(first * page, 1000, page);
}

void killed_while_armed() {
    const pid_t child = fork();
    if (child == 0) {
        Memory memory(64 * MiB);
        memory.fill(11);
        Machine machine(memory);
        machine.write(first * page, 4096, page);
        const Trap trap(machine);
        trap.arm();
        machine.port_to_memory(first * page, 8);
        machine.write((first + 1) * page, 1, page,
                      [](const kvm_hotsnap_exit &) { raise(SIGKILL); });
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    check(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "the child was not killed");
    // The next machine works like any other.
    Memory memory(4 * MiB);
    Machine machine(memory);
    const Trap trap(machine);
    trap.arm();
    const auto save = [&](const kvm_hotsnap_exit &exit) { trap.claim(page_of(memory, exit)); };
    check(machine.write(first * page, 64, page, save) == 64, "the next machine is not trapped");
    check(machine.write(first * page, 64, page) == 0, "the next machine is trapped twice");
}

} // namespace

void ring_and_life_cases(Cases &cases) {
    cases.run("trap-wrong-requests", wrong_requests);
    cases.run("trap-full-ring", full_ring);
    cases.run("trap-races", races);
    cases.run("control-no-guest-trap", [] { open_trap(KVM_HOTSNAP_ARM_NO_GUEST_TRAP); });
    cases.run("control-no-kvm-trap", [] { open_trap(KVM_HOTSNAP_ARM_NO_KVM_TRAP); });
    cases.run("trap-disarmed", disarmed);
    cases.run("trap-reaped-late", reaped_late);
    cases.run("trap-killed-while-armed", killed_while_armed);
}

} // namespace hotsnap::kvmtest
