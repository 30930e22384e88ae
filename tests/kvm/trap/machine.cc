// SPDX-License-Identifier: GPL-2.0-or-later
#include "machine.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <iterator>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <system_error>
#include <unistd.h>

namespace hotsnap::kvmtest {

namespace {

// A program ends with an OUT to this port. (HLT would wait, in a machine with an irqchip.)
constexpr uint16_t port_of_end = 0x81;
#define END 0xe6, 0x81
// KVM's forced emulation prefix, ud2 and "kvm": the instruction after it is emulated, if
// force_emulation_prefix is set.
#define EMULATE 0x0f, 0x0b, 0x6b, 0x76, 0x6d

// In the order of Program. The first two loop over ECX steps of EDX bytes from ESI on.
constexpr size_t program_bytes = 16;
constexpr uint8_t programs[][program_bytes] = {
    {0x89, 0x06, 0x01, 0xd6, 0x49, 0x75, 0xf9, END},
    {0x8b, 0x06, 0x01, 0xd6, 0x49, 0x75, 0xf9, END},
    {0x0f, 0x30, END},
    {0xfc, 0xf3, 0x6c, END}, // cld; rep insb
    {EMULATE, 0x89, 0x06, END},
    {EMULATE, 0x50, END},
    {EMULATE, 0xf0, 0x0f, 0xb1, 0x0e, END},
    {0x0f, 0x01, 0xdb, END},
    {0xea, 0, 0, 0, 0, 0x20, 0}, // ljmp to the other task's segment
    {0xfb, 0x90, 0xeb, 0xfe},    // sti; nop; jmp to itself
    {END},
};
static_assert(std::size(programs) == static_cast<size_t>(Program::count));

constexpr uint64_t address_of(Program program) {
    return Machine::code + program_bytes * static_cast<uint64_t>(program);
}

// After the programs: flat segments (accessed already, so that nobody writes there), and gates.
constexpr uint64_t gdt_at = Machine::code + 0x200;
constexpr uint64_t task_segment(uint64_t base, uint64_t type) {
    return 0x67 | base << 16 | (0x80 | type) << 40;
}
constexpr uint64_t gdt[] = {0, 0x00cf9b000000ffff, 0x00cf93000000ffff,
                            task_segment(Machine::task, 0xb), // busy
                            task_segment(Machine::other_task, 0x9)};
constexpr uint64_t idt_at = Machine::code + 0x400;
constexpr size_t gates = Machine::vector + 1;
constexpr uint64_t gate = uint64_t{0x8e00} << 32 | 8 << 16 | address_of(Program::interrupted);

kvm_segment flat(bool is_code) {
    kvm_segment segment{};
    segment.limit = 0xffffffff;
    segment.type = is_code ? 0xb : 0x3;
    segment.selector = is_code ? 8 : 16;
    segment.present = segment.db = segment.s = segment.g = 1;
    return segment;
}

} // namespace

void check(bool condition, const std::string &otherwise) {
    if (!condition) {
        throw Failed(otherwise);
    }
}

int must(int result, const char *what) {
    if (result < 0) {
        throw std::system_error(errno, std::generic_category(), what);
    }
    return result;
}

Fd &Fd::operator=(Fd &&other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
}

Fd::~Fd() {
    if (fd_ >= 0) {
        close(fd_);
    }
}

Memory::Memory(size_t bytes, bool huge) : bytes_(bytes) {
    // Aligned, so that it can have huge pages.
    const size_t room = bytes + 2 * MiB;
    auto *start = static_cast<std::byte *>(
        mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    must(start == MAP_FAILED ? -1 : 0, "mmap");
    const size_t skew = reinterpret_cast<uint64_t>(start) % (2 * MiB);
    base_ = start + (skew == 0 ? 0 : 2 * MiB - skew);
    munmap(start, static_cast<size_t>(base_ - start));
    munmap(base_ + bytes, static_cast<size_t>(start + room - base_ - bytes));
    madvise(base_, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

Memory::~Memory() {
    munmap(base_, bytes_);
}

size_t Memory::huge_bytes() const {
    std::ifstream maps("/proc/self/smaps");
    std::string line;
    const auto start = reinterpret_cast<uint64_t>(base_);
    bool ours = false;
    size_t found = 0;
    while (std::getline(maps, line)) {
        uint64_t from, to;
        size_t kib;
        if (std::sscanf(line.c_str(), "%lx-%lx ", &from, &to) == 2) {
            ours = from < start + bytes_ && to > start;
        } else if (ours && std::sscanf(line.c_str(), "AnonHugePages: %zu", &kib) == 1) {
            found += kib * 1024;
        }
    }
    return found;
}

void Memory::fill(uint64_t seed) {
    for (size_t i = 0; i < bytes_ / 8; i++) {
        const uint64_t value = (i + 1) * 0x9e3779b97f4a7c15u ^ seed;
        std::memcpy(base_ + i * 8, &value, sizeof(value));
    }
}

bool Memory::page_is(size_t number, const std::vector<std::byte> &copy) const {
    return std::memcmp(at(number * page), copy.data() + number * page, page) == 0;
}

Machine::Machine(Memory &memory, Kind kind) : memory_(memory) {
    kvm_ = Fd(must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm"));
    vm_ = Fd(must(ioctl(kvm_.get(), KVM_CREATE_VM, 0), "KVM_CREATE_VM"));
    must(ioctl(vm_.get(), KVM_SET_TSS_ADDR, 0xfffbd000), "KVM_SET_TSS_ADDR");
    if (kind.irqchip) {
        must(ioctl(vm_.get(), KVM_CREATE_IRQCHIP), "KVM_CREATE_IRQCHIP");
    }
    run_bytes_ = static_cast<size_t>(must(ioctl(kvm_.get(), KVM_GET_VCPU_MMAP_SIZE, 0), "size"));
    set_slot(0, 0, memory.bytes());
    for (int i = 0; i < kind.vcpus; i++) {
        Vcpu cpu{Fd(must(ioctl(vm_.get(), KVM_CREATE_VCPU, i), "KVM_CREATE_VCPU")), nullptr};
        void *run = mmap(nullptr, run_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, cpu.fd.get(), 0);
        must(run == MAP_FAILED ? -1 : 0, "mmap of a vCPU");
        cpu.run = static_cast<kvm_run *>(run);
        kvm_sregs system;
        must(ioctl(cpu.fd.get(), KVM_GET_SREGS, &system), "KVM_GET_SREGS");
        system.cs = flat(true);
        system.ds = system.es = system.fs = system.gs = system.ss = flat(false);
        system.gdt.base = gdt_at;
        system.gdt.limit = sizeof(gdt) - 1;
        system.idt.base = idt_at;
        system.idt.limit = gates * sizeof(gate) - 1;
        system.cr0 |= 1;
        must(ioctl(cpu.fd.get(), KVM_SET_SREGS, &system), "KVM_SET_SREGS");
        vcpus_.push_back(std::move(cpu));
    }
    if (kind.irqchip) {
        must(ioctl(vcpu(), KVM_GET_LAPIC, &apic_), "KVM_GET_LAPIC");
        apic_.regs[0xf1] |= 1; // enabled, in the register of spurious interrupts
        must(ioctl(vcpu(), KVM_SET_LAPIC, &apic_), "KVM_SET_LAPIC");
    }
}

Machine::~Machine() {
    for (const Vcpu &cpu : vcpus_) {
        munmap(cpu.run, run_bytes_);
    }
}

void Machine::set_slot(uint32_t slot, uint64_t gpa, size_t bytes, uint32_t flags) const {
    kvm_userspace_memory_region region{slot, flags, gpa, bytes, memory_.address()};
    must(ioctl(vm_.get(), KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
}

std::vector<uint64_t> Machine::dirty_log(uint32_t slot) const {
    std::vector<uint64_t> bitmap((memory_.pages() + 63) / 64);
    kvm_dirty_log log{};
    log.slot = slot;
    log.dirty_bitmap = bitmap.data();
    must(ioctl(vm_.get(), KVM_GET_DIRTY_LOG, &log), "KVM_GET_DIRTY_LOG");
    return bitmap;
}

void Machine::set_paging(uint64_t directory, uint64_t efer) const {
    kvm_sregs system;
    must(ioctl(vcpu(), KVM_GET_SREGS, &system), "KVM_GET_SREGS");
    system.cr3 = directory;
    system.cr0 |= 1u << 31;
    system.efer |= efer;
    must(ioctl(vcpu(), KVM_SET_SREGS, &system), "KVM_SET_SREGS");
}

// fill() overwrites the code; the next run puts it back. This process writes here, so no trap acts.
void Machine::put_code() const {
    const auto put = [this](uint64_t at, const void *bytes, size_t count) {
        if (std::memcmp(memory_.at(at), bytes, count) != 0) {
            std::memcpy(memory_.at(at), bytes, count);
        }
    };
    put(code, programs, sizeof(programs));
    put(gdt_at, gdt, sizeof(gdt));
    for (size_t i = 0; i < gates; i++) {
        put(idt_at + i * sizeof(gate), &gate, sizeof(gate));
    }
}

size_t Machine::run(Program program, const Registers &registers, const OnExit &on_exit, int cpu) {
    put_code();
    const Vcpu &vcpu = vcpus_[static_cast<size_t>(cpu)];
    kvm_regs regs{};
    regs.rip = address_of(program);
    regs.rax = registers.rax;
    regs.rcx = registers.rcx;
    regs.rdx = registers.rdx;
    regs.rsi = registers.rsi;
    regs.rdi = registers.rdi;
    regs.rsp = registers.rsp;
    regs.rflags = registers.rflags;
    must(ioctl(vcpu.fd.get(), KVM_SET_REGS, &regs), "KVM_SET_REGS");
    size_t exits = 0;
    while (true) {
        if (ioctl(vcpu.fd.get(), KVM_RUN, 0) < 0) {
            must(errno == EINTR || errno == EAGAIN ? 0 : -1, "KVM_RUN");
            continue;
        }
        switch (vcpu.run->exit_reason) {
        case KVM_EXIT_IO:
            if (vcpu.run->io.port == port_of_end) {
                return exits;
            }
            std::memset(reinterpret_cast<std::byte *>(vcpu.run) + vcpu.run->io.data_offset, 0xa5,
                        size_t{vcpu.run->io.size} * vcpu.run->io.count);
            break;
        case KVM_EXIT_HOTSNAP: {
            kvm_hotsnap_exit exit;
            std::memcpy(&exit, &vcpu.run->hw, sizeof(exit));
            check(static_cast<bool>(on_exit),
                  "a vCPU left for a page that nobody waits for: " + std::to_string(exit.gpa));
            check(++exits < 10'000'000, "a vCPU leaves again and again");
            on_exit(exit);
            break;
        }
        default:
            throw Failed("KVM_RUN ended with reason " + std::to_string(vcpu.run->exit_reason));
        }
    }
}

size_t Machine::write(uint64_t at, size_t count, size_t stride, const OnExit &on_exit, int cpu) {
    return run(Program::write, {.rax = 0x5a5a5a5a, .rcx = count, .rdx = stride, .rsi = at}, on_exit,
               cpu);
}

size_t Machine::read(uint64_t at, size_t count, size_t stride, const OnExit &on_exit, int cpu) {
    return run(Program::read, {.rcx = count, .rdx = stride, .rsi = at}, on_exit, cpu);
}

void Machine::set_msr(uint32_t msr, uint64_t value, int cpu) {
    run(Program::set_msr, {.rax = value & 0xffffffff, .rcx = msr, .rdx = value >> 32}, {}, cpu);
}

void Machine::port_to_memory(uint64_t at, size_t count, int cpu) {
    run(Program::port_to_memory, {.rcx = count, .rdx = 0x80, .rdi = at}, {}, cpu);
}

void Machine::put_task() const {
    uint32_t state[0x68 / sizeof(uint32_t)]{};
    state[8] = static_cast<uint32_t>(address_of(Program::interrupted));
    state[9] = 2; // flags
    state[14] = stack;
    for (const size_t segment : {18, 20, 21, 22, 23}) {
        state[segment] = 16;
    }
    state[19] = 8; // CS
    std::memcpy(memory_.at(other_task), state, sizeof(state));
}

size_t Machine::switch_task(const OnExit &on_exit) {
    kvm_sregs system;
    must(ioctl(vcpu(), KVM_GET_SREGS, &system), "KVM_GET_SREGS");
    system.tr = flat(false);
    system.tr.type = 0xb;
    system.tr.selector = 0x18;
    system.tr.base = task;
    system.tr.limit = 0x67;
    system.tr.s = system.tr.db = system.tr.g = 0;
    must(ioctl(vcpu(), KVM_SET_SREGS, &system), "KVM_SET_SREGS");
    return run(Program::switch_task, {}, on_exit);
}

size_t Machine::interrupt(const OnExit &on_exit) {
    must(ioctl(vcpu(), KVM_SET_LAPIC, &apic_), "KVM_SET_LAPIC"); // forgets the last one
    kvm_msi message{};
    message.address_lo = 0xfee00000;
    message.data = vector;
    check(must(ioctl(vm(), KVM_SIGNAL_MSI, &message), "KVM_SIGNAL_MSI") > 0, "it is not taken");
    return run(Program::wait, {}, on_exit);
}

} // namespace hotsnap::kvmtest
