// SPDX-License-Identifier: GPL-2.0-or-later
//
// Writes by the guest: which pages are trapped, when, how often; also with huge pages, with page
// tables of its own, and when memory slots change.
#include "cases.h"

#include <cerrno>
#include <cstring>
#include <set>
#include <system_error>
#include <unistd.h>

namespace hotsnap::kvmtest {

namespace {

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

// Code writes to the large page it lies in. Its two mappings must not undo each other for ever.
void code_beside_data() {
    Memory memory(8 * MiB, true);
    memory.fill(3);
    if (memory.huge_bytes() < 4 * MiB) {
        throw Skipped("this kernel gave no transparent huge pages");
    }
    Machine machine(memory);
    machine.write(first * page, 64, page);
    const Trap trap(machine);
    trap.arm();
    const auto save = [&](const kvm_hotsnap_exit &exit) { trap.claim(page_of(memory, exit)); };
    alarm(120); // ends this program if the guest is in an endless loop of faults
    const size_t exits = machine.write(first * page, 64, page, save);
    alarm(0);
    check(exits == 64, std::to_string(exits) + " exits for 64 pages");
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

// The guest has page tables of its own, and writes to a page where it never wrote. The write is
// marked in the table: by the processor with nested paging, by KVM with shadow paging.
void page_walks() {
    Memory memory(4 * MiB);
    memory.fill(13);
    const PageTables tables(memory);
    Machine machine(memory);
    machine.set_paging(PageTables::directory * page);
    machine.read(first * page, 1, page);
    const auto before = copy_of(memory);
    const Trap trap(machine);
    trap.arm();
    std::set<size_t> left, taken;
    machine.write(PageTables::second + first * page, 1, page, [&](const kvm_hotsnap_exit &exit) {
        const size_t number = page_of(memory, exit);
        check(memory.page_is(number, before), "the page was written before it was saved");
        check(trap.claim(number), "a vCPU left for a saved page");
        left.insert(number);
    });
    trap.take([&](size_t number, const std::byte *data) {
        check(std::memcmp(data, before.data() + number * page, page) == 0, "not as it was");
        check(!left.contains(number) && taken.insert(number).second, "a page was saved twice");
    });
    check(left.contains(first), "the vCPU did not leave for the page that it writes to");
    check(!memory.page_is(PageTables::second_table, before), "nothing is marked in the page table");
    check((shadow_paging() ? taken : left).contains(PageTables::second_table),
          "the page table was not saved by its writer");
}

// The processor writes, too, in the midst of an interrupt's delivery. The interrupt must not get
// lost.
void interrupt_delivery() {
    constexpr size_t stack = Machine::stack / page - 1;
    Memory memory(4 * MiB);
    Machine machine(memory, {.irqchip = true});
    machine.interrupt();
    memory.fill(14);
    machine.read(first * page, 1, page);
    const auto before = copy_of(memory);
    const Trap trap(machine);
    trap.arm();
    const size_t exits = machine.interrupt([&](const kvm_hotsnap_exit &exit) {
        check(page_of(memory, exit) == stack, "it is not the stack that the vCPU left for");
        check(memory.page_is(stack, before), "the page was written before it was saved");
        check(trap.claim(stack), "a vCPU left for a saved page");
    });
    check(exits == 1, std::to_string(exits) + " exits");
    check(!memory.page_is(stack, before), "the interrupt left nothing on the stack");
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

} // namespace

void guest_write_cases(Cases &cases) {
    cases.run("trap-guest-writes", [] { guest_writes(1); });
    cases.run("trap-guest-writes-with-neighbors", [] { guest_writes(16); });
    cases.run("trap-reads", reads);
    cases.run("trap-huge-pages", huge_pages);
    cases.run("trap-code-beside-data", code_beside_data);
    cases.run("trap-released-ranges", released_ranges);
    cases.run("trap-page-walks", page_walks);
    cases.run("trap-interrupt-delivery", interrupt_delivery);
    cases.run("trap-two-slots-show-the-same", two_slots_show_the_same);
    cases.run("trap-slot-made-anew", slot_made_anew);
    cases.run("trap-dirty-logging-beside", dirty_logging_beside);
}

} // namespace hotsnap::kvmtest
