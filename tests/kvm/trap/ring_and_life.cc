// SPDX-License-Identifier: GPL-2.0-or-later
//
// The write traps of the patched KVM, seen from a machine of a few bytes of code: who is trapped,
// when, what the ring holds, and what arming costs. Prints TAP, as the other test programs do.
#include "machine.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <set>
#include <sys/ioctl.h>
#include <system_error>
#include <thread>

using namespace hotsnap::kvmtest;

namespace {

constexpr uint32_t msr_wall_clock = 0x4b564d00;
constexpr uint32_t msr_system_time = 0x4b564d01;
constexpr uint32_t msr_steal_time = 0x4b564d03;

// The tests' pages begin here; the programs are on page 0.
constexpr size_t first = 16;

struct Skipped : std::runtime_error {
    using std::runtime_error::runtime_error;
};

std::vector<std::byte> copy_of(const Memory &memory) {
    return {memory.at(0), memory.at(0) + memory.bytes()};
}

size_t page_of(const Memory &memory, const kvm_hotsnap_exit &exit) {
    return (exit.hva - memory.address()) / page;
}

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

// Writes to 64 pages twice; the handler saves `together` neighboring pages at once.
void guest_writes(size_t together) {
    Memory memory(4 * MiB);
    memory.fill(1);
    Machine machine(memory);
    machine.write(first * page, 64, page); // so that KVM has mapped them writable
    const auto before = copy_of(memory);
    const Trap trap(machine);
    trap.arm();
    const auto save = [&](const kvm_hotsnap_exit &exit) {
        const size_t number = page_of(memory, exit);
        check(exit.gpa == number * page, "gpa and hva do not agree");
        check(memory.page_is(number, before), "the page was written before it was saved");
        check(!trap.saved(number), "a vCPU left for a saved page");
        for (size_t i = number / together * together; i < number / together * together + together;
             i++) {
            trap.claim(i);
        }
    };
    for (int round = 0; round < 2; round++) {
        const size_t exits = machine.write(first * page + 8, 64, page, save);
        check(exits == (round == 0 ? 64 / together : 0), std::to_string(exits) + " exits");
    }
    for (size_t i = first; i < first + 64; i++) {
        check(!memory.page_is(i, before), "a write got lost");
    }
    check(trap.ring().exits == 64 / together, "the count of exits is wrong");
}

void reads() {
    Memory memory(4 * MiB);
    memory.fill(2);
    Machine machine(memory);
    const Trap trap(machine);
    trap.arm();
    machine.read(first * page, 64, page);
    const size_t exits = machine.write(first * page, 64, page, [&](const kvm_hotsnap_exit &exit) {
        trap.claim(page_of(memory, exit));
    });
    check(exits == 64, std::to_string(exits) + " exits for 64 pages that were read before");
}

void huge_pages() {
    Memory memory(8 * MiB, true);
    memory.fill(3);
    if (memory.huge_bytes() < 4 * MiB) {
        throw Skipped("this kernel gave no transparent huge pages");
    }
    Machine machine(memory);
    machine.write(2 * MiB, 1024, page);
    const auto before = copy_of(memory);
    const Trap trap(machine);
    trap.arm();
    machine.read(2 * MiB, 1024, page);
    const auto save = [&](const kvm_hotsnap_exit &exit) {
        check(memory.page_is(page_of(memory, exit), before), "written before it was saved");
        check(trap.claim(page_of(memory, exit)), "a vCPU left for a saved page");
    };
    // Not in order, so that saved and unsaved pages lie side by side.
    size_t exits = machine.write(2 * MiB + page, 512, 2 * page, save);
    exits += machine.write(2 * MiB, 512, 2 * page, save);
    check(exits == 1024, std::to_string(exits) + " exits for 1024 pages");
    check(machine.write(2 * MiB, 1024, page, save) == 0, "saved pages are still trapped");
    trap.disarm();
    machine.write(0x1000, 1, page);
}

void released_ranges() {
    Memory memory(4 * MiB);
    Machine machine(memory);
    const Trap trap(machine, {{0, MiB}, {2 * MiB, MiB}});
    trap.release(first * page, 32 * page);
    trap.arm();
    machine.write(first * page, 32, page);
    machine.write(MiB, 64, page); // in no region
    size_t exits = 0;
    machine.write(2 * MiB, 8, page, [&](const kvm_hotsnap_exit &exit) {
        exits++;
        trap.release(exit.hva - memory.address(), 4 * page);
    });
    check(exits == 2, std::to_string(exits) + " exits instead of 2");
    try {
        trap.release(0, 2 * MiB);
        throw Failed("a range outside of all regions was released");
    } catch (const std::system_error &error) {
        check(error.code().value() == EINVAL, error.what());
    }
}

// What KVM writes by itself: the page comes through the ring, as it was.
template <typename Act> void kvm_writes(size_t number, uint32_t flags, Act act) {
    Memory memory(4 * MiB);
    memory.fill(4);
    Machine machine(memory);
    machine.read(first * page, 64, page);
    const auto before = copy_of(memory);
    const Trap trap(machine);
    trap.arm(flags);
    act(machine);
    check(!memory.page_is(number, before), "KVM wrote nothing: this proves nothing");
    std::set<size_t> seen;
    trap.take([&](size_t i, const std::byte *data) {
        check(seen.insert(i).second, "a page came twice");
        check(std::memcmp(data, before.data() + i * page, page) == 0, "not as it was");
        check(trap.saved(i), "a page came without its bit");
    });
    check(trap.ring().lost == 0, "KVM lost a page");
    if (flags == 0) {
        check(seen.contains(number), "the page did not come");
        check(trap.ring().kvm_saves == seen.size(), "the count of pages is wrong");
    } else {
        check(seen.empty(), "a page came though the trap was open");
    }
    act(machine);
    check(trap.take([](size_t, const std::byte *) {}) == 0, "a page came twice");
}

void write_by(uint32_t msr, uint32_t flags = 0) {
    const uint64_t enable = msr == msr_wall_clock ? 0 : 1;
    kvm_writes(first, flags, [&](Machine &machine) {
        machine.set_msr(msr, first * page | enable);
        machine.read(first * page, 1, page); // system and steal time are written at the next entry
    });
}

void emulator_writes(uint32_t flags = 0) {
    kvm_writes(first + 1, flags,
               [](Machine &machine) { machine.port_to_memory((first + 1) * page + 100, 8); });
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
// the memory at the cut. Returns how many pages are not.
size_t race(uint32_t flags) {
    constexpr size_t pages = 1024;
    Memory memory(pages * page);
    memory.fill(6);
    Machine machine(memory, 2);
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
    // User space's own writers and copier agree by a claim; against KVM, copy first.
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
    // A slot that goes drops all page tables, old ones included.
    machine.set_slot(1, Machine::alias, MiB);
    machine.set_slot(1, Machine::alias, 0);
    trap.reap();
    trap.reap();
    machine.write(first * page, 1000, page);
}

void two_slots_show_the_same() {
    Memory memory(4 * MiB);
    memory.fill(8);
    Machine machine(memory);
    machine.set_slot(1, Machine::alias, memory.bytes());
    const Trap trap(machine);
    trap.arm();
    std::vector<uint64_t> gpas;
    const auto save = [&](const kvm_hotsnap_exit &exit) {
        gpas.push_back(exit.gpa);
        trap.claim(page_of(memory, exit));
    };
    machine.write(Machine::alias + first * page, 4, page, save);
    check(gpas.size() == 4 && gpas[0] == Machine::alias + first * page, "the alias is not trapped");
    machine.write(first * page, 4, page);
    machine.write((first + 4) * page, 4, page, save);
    machine.write(Machine::alias + (first + 4) * page, 4, page);
    check(gpas.size() == 8, "the slots do not share their bits");
}

void slot_made_anew() {
    Memory memory(4 * MiB);
    memory.fill(9);
    Machine machine(memory);
    machine.write(first * page, 8, page);
    const Trap trap(machine);
    trap.arm();
    const auto save = [&](const kvm_hotsnap_exit &exit) { trap.claim(page_of(memory, exit)); };
    check(machine.write(first * page, 4, page, save) == 4, "not trapped");
    machine.set_slot(0, 0, 0);
    machine.set_slot(0, 0, memory.bytes());
    check(machine.write(first * page, 8, page, save) == 4,
          "after the slot was made anew the wrong pages are trapped");
}

void dirty_logging_beside() {
    Memory memory(4 * MiB);
    memory.fill(10);
    Machine machine(memory);
    machine.set_slot(0, 0, memory.bytes(), KVM_MEM_LOG_DIRTY_PAGES);
    machine.write(first * page, 64, page);
    machine.dirty_log(0);
    const Trap trap(machine);
    trap.arm();
    const auto save = [&](const kvm_hotsnap_exit &exit) { trap.claim(page_of(memory, exit)); };
    for (int round = 0; round < 3; round++) {
        const size_t exits = machine.write(first * page, 64, page, save);
        check(exits == (round == 0 ? 64 : 0), std::to_string(exits) + " exits");
        const auto dirty = machine.dirty_log(0);
        for (size_t i = first; i < first + 64; i++) {
            check((dirty[i / 64] >> i % 64 & 1) != 0, "the log misses a page");
        }
    }
    machine.set_slot(0, 0, memory.bytes(), 0);
    check(machine.write((first + 64) * page, 64, page, save) == 64, "the traps went with the log");
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
    guest_writes(1); // the next machine is as good as any
}

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

// Not a timed test: prints what arming costs by size (median of five), beside what dirty logging's
// start costs, which write-protects every page.
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

// What a VM without traps pays for KVM having them: to be compared with a KVM that has none, where
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

int failures = 0;
std::string left_out;

template <typename Test> void run(const char *name, Test test) {
    if (name == left_out) {
        return;
    }
    try {
        test();
        std::printf("ok %s\n", name);
    } catch (const Skipped &reason) {
        std::printf("skip %s - %s\n", name, reason.what());
    } catch (const std::exception &error) {
        std::printf("not ok %s - %s\n", name, error.what());
        failures++;
    }
    std::fflush(stdout);
}

} // namespace

// --without NAME leaves out a test; --unused only measures, also where KVM has no traps.
int main(int argc, char **argv) {
    if (argc == 2 && std::strcmp(argv[1], "--unused") == 0) {
        cost_when_unused();
        return 0;
    }
    if (argc == 3 && std::strcmp(argv[1], "--without") == 0) {
        left_out = argv[2];
    }
    const int kvm = open("/dev/kvm", O_RDWR);
    if (kvm < 0 || ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_HOTSNAP) != KVM_HOTSNAP_VERSION) {
        std::printf("not ok capability - this KVM has no write traps\n");
        return 1;
    }
    run("trap-wrong-requests", wrong_requests);
    run("trap-guest-writes", [] { guest_writes(1); });
    run("trap-guest-writes-with-neighbors", [] { guest_writes(16); });
    run("trap-reads", reads);
    run("trap-huge-pages", huge_pages);
    run("trap-released-ranges", released_ranges);
    run("trap-wall-clock", [] { write_by(msr_wall_clock); });
    run("trap-system-time", [] { write_by(msr_system_time); });
    run("trap-steal-time", [] { write_by(msr_steal_time); });
    run("trap-emulator", [] { emulator_writes(); });
    run("trap-full-ring", full_ring);
    run("trap-races", races);
    run("trap-disarmed", disarmed);
    run("trap-reaped-late", reaped_late);
    run("trap-two-slots-show-the-same", two_slots_show_the_same);
    run("trap-slot-made-anew", slot_made_anew);
    run("trap-dirty-logging-beside", dirty_logging_beside);
    run("trap-killed-while-armed", killed_while_armed);
    run("control-no-guest-trap", [] { open_trap(KVM_HOTSNAP_ARM_NO_GUEST_TRAP); });
    run("control-no-kvm-trap", [] { open_trap(KVM_HOTSNAP_ARM_NO_KVM_TRAP); });
    run("control-no-kvm-trap-wall-clock",
        [] { write_by(msr_wall_clock, KVM_HOTSNAP_ARM_NO_KVM_TRAP); });
    run("trap-cost-of-arming", cost_of_arming);
    return failures == 0 ? 0 : 1;
}
