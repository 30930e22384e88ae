// SPDX-License-Identifier: GPL-2.0-or-later
//
// Writes by KVM itself: the pages come through the ring, as they were. Each case is run once more
// with that trap open, and then nothing must come.
#include "cases.h"
#include "slow_memory.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <sys/ioctl.h>

namespace hotsnap::kvmtest {

namespace {

// KVM's own MSRs and Hyper-V's.
constexpr uint32_t msr_wall_clock = 0x4b564d00;
constexpr uint32_t msr_system_time = 0x4b564d01;
constexpr uint32_t msr_steal_time = 0x4b564d03;
constexpr uint32_t msr_end_of_interrupt = 0x4b564d04;
constexpr uint32_t msr_async_fault = 0x4b564d02;
constexpr uint32_t msr_async_fault_vector = 0x4b564d06;
constexpr uint32_t msr_hyperv_guest = 0x40000000;
constexpr uint32_t msr_hyperv_hypercall = 0x40000001;
constexpr uint32_t msr_hyperv_reference_tsc = 0x40000021;
constexpr uint32_t msr_hyperv_assist_page = 0x40000073;

constexpr uint64_t here = first * page;
constexpr uint32_t smm_slot = 1 << 16; // the first of SMM's own address space

// One way in which KVM writes to memory.
struct Writer {
    std::string name;
    std::vector<size_t> pages;                              // that it writes to
    std::function<void(Machine &)> act;                     // makes it write
    std::function<void(Machine &)> prepare = [](auto &) {}; // before the traps are armed
    Machine::Kind kind{};
    std::vector<size_t> guests{}; // pages that others write to as well: they count as saved
};

void try_out(const Writer &writer, uint32_t flags) {
    Memory memory(4 * MiB);
    memory.fill(4);
    Machine machine(memory, writer.kind);
    writer.prepare(machine);
    machine.read(here, 64, page);
    const auto before = copy_of(memory);
    const Trap trap(machine);
    trap.arm(flags);
    for (const size_t number : writer.guests) {
        trap.claim(number);
    }
    writer.act(machine);
    for (const size_t number : writer.pages) {
        check(!memory.page_is(number, before), "KVM wrote nothing: this proves nothing");
    }
    std::set<size_t> seen;
    trap.take([&](size_t i, const std::byte *data) {
        check(seen.insert(i).second, "a page came twice");
        check(std::memcmp(data, before.data() + i * page, page) == 0, "not as it was");
        check(trap.saved(i), "a page came without its bit");
    });
    check(trap.ring().lost == 0, "KVM lost a page");
    if (flags == 0) {
        for (const size_t number : writer.pages) {
            check(seen.contains(number), "page " + std::to_string(number) + " did not come");
        }
        check(trap.ring().kvm_saves == seen.size(), "the count of pages is wrong");
    } else {
        check(seen.empty(), "a page came though the trap was open");
    }
    writer.act(machine);
    check(trap.take([](size_t, const std::byte *) {}) == 0, "a page came twice");
}

// The program's instruction is emulated because of its prefix.
void force_emulation(Machine &) {
    std::ofstream file("/sys/module/kvm/parameters/force_emulation_prefix");
    file << 1 << std::flush;
    if (!file) {
        throw Skipped("KVM's force_emulation_prefix cannot be set");
    }
}

uint32_t word_at(const Machine &machine, uint64_t at) {
    uint32_t value;
    std::memcpy(&value, machine.memory().at(at), sizeof(value));
    return value;
}

void exchange(Machine &machine, uint64_t at) {
    machine.run(Program::emulated_exchange,
                {.rax = word_at(machine, at), .rcx = ~word_at(machine, at), .rsi = at});
}

// By its CPUID KVM takes a guest for one that knows Hyper-V.
void be_hyperv(Machine &machine) {
    // As struct kvm_cpuid2, which is larger in C++, where KVM_SET_CPUID2 is another number for it.
    struct {
        uint32_t count = 1, padding = 0;
        kvm_cpuid_entry2 entry{};
    } cpuid;
    constexpr unsigned long set_cpuid = _IOW(KVMIO, 0x90, uint64_t);
    cpuid.entry.function = 0x40000001;
    cpuid.entry.eax = 0x31237648; // "Hv#1"
    must(ioctl(machine.vcpu(), set_cpuid, &cpuid), "KVM_SET_CPUID2");
    machine.set_msr(msr_hyperv_guest, 1);
}

void be_shown_xen_page(Machine &machine) {
    kvm_xen_hvm_attr attribute{};
    attribute.type = KVM_XEN_ATTR_TYPE_SHARED_INFO;
    attribute.u.shared_info.gfn = first;
    if (ioctl(machine.vm(), KVM_XEN_HVM_SET_ATTR, &attribute) < 0) {
        throw Skipped("this KVM does not emulate Xen");
    }
}

// The structure lies in two pages; KVM writes to both in this call.
void be_told_xen_runstate(Machine &machine) {
    kvm_xen_vcpu_attr attribute{};
    attribute.type = KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR;
    attribute.u.gpa = here + page - 16;
    if (ioctl(machine.vcpu(), KVM_XEN_VCPU_SET_ATTR, &attribute) < 0) {
        throw Skipped("this KVM does not emulate Xen's run states");
    }
}

// The handler is RSM alone. SMM sees the same memory.
void prepare_smm(Machine &machine) {
    machine.set_slot(smm_slot, 0, machine.memory().bytes());
    std::memcpy(machine.memory().at(0x38000), "\x0f\xaa", 2);
}

void enter_smm(Machine &machine) {
    if (ioctl(machine.vcpu(), KVM_SMI, 0) < 0) {
        throw Skipped("this KVM has no system management mode");
    }
    machine.read(here, 1, page);
}

void have_paging(Machine &machine, uint64_t efer = 0) {
    const PageTables tables(machine.memory());
    machine.set_paging(PageTables::directory * page, efer);
}

// Only a guest with paging is told. The slow memory is where its second page table begins.
void prepare_slow_memory(Machine &machine, std::unique_ptr<SlowMemory> &slow) {
    slow = std::make_unique<SlowMemory>(machine);
    have_paging(machine);
    constexpr uint32_t entry = Machine::alias | 0x63;
    std::memcpy(machine.memory().at(PageTables::second_table * page), &entry, sizeof(entry));
}

// The guest reads memory that is slow, with interrupts on, and finds itself in its handler of page
// faults. The page comes in any case, since KVM waits for it when the machine ends.
void read_slow_memory(Machine &machine, const SlowMemory &slow) {
    struct Finally {
        const SlowMemory &slow;
        ~Finally() { slow.come(); }
    } finally{slow};
    constexpr uint64_t always_by_interrupt = 1 | 1 << 1 | 1 << 3;
    machine.set_msr(msr_async_fault_vector, Machine::vector);
    machine.set_msr(msr_async_fault, here | always_by_interrupt);
    machine.run(Program::read,
                {.rcx = 1, .rdx = page, .rsi = PageTables::second, .rflags = 1 << 9 | 2});
}

Writer async_fault() {
    auto slow = std::make_shared<std::unique_ptr<SlowMemory>>();
    return {.name = "async-page-fault",
            .pages = {first},
            .act = [slow](Machine &machine) { read_slow_memory(machine, **slow); },
            .prepare = [slow](Machine &machine) { prepare_slow_memory(machine, *slow); },
            .kind = {.irqchip = true},
            .guests = {Machine::stack / page - 1, PageTables::directory, PageTables::table,
                       PageTables::second_table}};
}

// The page directory of a guest that KVM shadows is write-protected; an instruction that writes to
// it is emulated.
void write_shadowed_directory(Machine &machine) {
    machine.read(PageTables::directory * page, 1, page);
    machine.write(PageTables::directory * page + 64, 1, page);
}

void prepare_shadowed_directory(Machine &machine) {
    if (!shadow_paging()) {
        throw Skipped("KVM uses nested paging: it shadows no page tables");
    }
    have_paging(machine);
}

void prepare_nested(Machine &machine) {
    if (parameter("kvm_amd/parameters/nested").empty()) {
        throw Skipped("VMSAVE is an instruction of AMD's processors");
    }
    have_paging(machine, 1 << 12); // EFER.SVME
}

Writer by_msr(
    const std::string &name, uint32_t msr, uint64_t enable,
    const std::function<void(Machine &)> &prepare = [](auto &) {}) {
    return {.name = name,
            .pages = {first},
            .act =
                [=](Machine &machine) {
                    machine.set_msr(msr, here | enable);
                    machine.read(here, 1, page); // some are written at the next entry
                },
            .prepare = prepare};
}

std::vector<Writer> emulated() {
    constexpr uint64_t border = here + page - 2;
    return {
        {.name = "emulator",
         .pages = {first + 1},
         .act = [](Machine &machine) { machine.port_to_memory(here + page + 100, 8); }},
        {.name = "emulated-write",
         .pages = {first},
         .act = [](Machine &machine) { machine.run(Program::emulated_write, {.rsi = here}); },
         .prepare = force_emulation},
        {.name = "emulated-write-to-two-pages",
         .pages = {first, first + 1},
         .act = [](Machine &machine) { machine.run(Program::emulated_write, {.rsi = border}); },
         .prepare = force_emulation},
        {.name = "emulated-push-to-two-pages",
         .pages = {first, first + 1},
         .act = [](Machine &machine) { machine.run(Program::emulated_push, {.rsp = border + 4}); },
         .prepare = force_emulation},
        {.name = "emulated-exchange",
         .pages = {first},
         .act = [](Machine &machine) { exchange(machine, here); },
         .prepare = force_emulation},
        {.name = "emulated-exchange-in-two-pages",
         .pages = {first, first + 1},
         .act = [](Machine &machine) { exchange(machine, border); },
         .prepare = force_emulation},
        // The emulator walks the guest's page tables by software, also with nested paging. The
        // processor may write to the tables that it walks to the code.
        {.name = "accessed-and-dirty-bits",
         .pages = {PageTables::second_table, first},
         .act =
             [](Machine &machine) {
                 machine.run(Program::emulated_write, {.rsi = PageTables::second + here});
             },
         .prepare =
             [](Machine &machine) {
                 force_emulation(machine);
                 have_paging(machine);
             },
         .guests = {PageTables::directory, PageTables::table}},
        {.name = "shadowed-page-directory",
         .pages = {PageTables::directory},
         .act = write_shadowed_directory,
         .prepare = prepare_shadowed_directory},
        {.name = "nested-vmsave", // a page that KVM maps
         .pages = {first},
         .act = [](Machine &machine) { machine.run(Program::save_vmcb, {.rax = here}); },
         .prepare = prepare_nested,
         .guests = {PageTables::directory, PageTables::table}},
        {.name = "task-switch",
         .pages = {Machine::task / page},
         .act =
             [](Machine &machine) {
                 machine.switch_task([](const kvm_hotsnap_exit &) {
                     throw Skipped("this processor switches tasks by itself");
                 });
             },
         .prepare = [](Machine &machine) { machine.put_task(); }},
        {.name = "smm-state", .pages = {0x3f}, .act = enter_smm, .prepare = prepare_smm},
    };
}

std::vector<Writer> paravirtual() {
    return {
        by_msr("wall-clock", msr_wall_clock, 0),
        by_msr("system-time", msr_system_time, 1),
        by_msr("steal-time", msr_steal_time, 1),
        {.name = "end-of-interrupt",
         .pages = {first},
         .act =
             [](Machine &machine) {
                 machine.set_msr(msr_end_of_interrupt, here | 1);
                 machine.interrupt();
             },
         .kind = {.irqchip = true},
         .guests = {Machine::stack / page - 1}},
        {.name = "task-priority",
         .pages = {first},
         .act =
             [](Machine &machine) {
                 kvm_vapic_addr address{here};
                 must(ioctl(machine.vcpu(), KVM_SET_VAPIC_ADDR, &address), "KVM_SET_VAPIC_ADDR");
                 machine.read(here, 1, page);
             },
         .kind = {.irqchip = true}},
        async_fault(),
        by_msr("hyperv-hypercall-page", msr_hyperv_hypercall, 1, be_hyperv),
        by_msr("hyperv-reference-tsc", msr_hyperv_reference_tsc, 1, be_hyperv),
        by_msr("hyperv-assist-page", msr_hyperv_assist_page, 1, be_hyperv),
        {.name = "xen-shared-info", .pages = {first}, .act = be_shown_xen_page},
        {.name = "xen-runstate", .pages = {first, first + 1}, .act = be_told_xen_runstate},
    };
}

} // namespace

void kvm_write_cases(Cases &cases) {
    for (const auto &writers : {emulated(), paravirtual()}) {
        for (const Writer &writer : writers) {
            cases.run("trap-" + writer.name, [&] { try_out(writer, 0); });
            cases.run("control-no-kvm-trap-" + writer.name,
                      [&] { try_out(writer, KVM_HOTSNAP_ARM_NO_KVM_TRAP); });
        }
    }
}

} // namespace hotsnap::kvmtest
