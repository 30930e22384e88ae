// SPDX-License-Identifier: GPL-2.0-or-later
#include "machine.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <system_error>
#include <unistd.h>

namespace hotsnap::kvmtest {

namespace {

constexpr uint64_t writer = Machine::code;
constexpr uint64_t reader = Machine::code + 16;
constexpr uint64_t msr_setter = Machine::code + 32;
constexpr uint64_t port_reader = Machine::code + 48;

// Loops over ECX steps of EDX bytes from ESI on.
constexpr uint8_t writer_code[] = {0x89, 0x06, 0x01, 0xd6, 0x49, 0x75, 0xf9, 0xf4};
constexpr uint8_t reader_code[] = {0x8b, 0x06, 0x01, 0xd6, 0x49, 0x75, 0xf9, 0xf4};
constexpr uint8_t msr_setter_code[] = {0x0f, 0x30, 0xf4};
constexpr uint8_t port_reader_code[] = {0xfc, 0xf3, 0x6c, 0xf4}; // cld; rep insb; hlt

int must(int result, const char *what) {
    if (result < 0) {
        throw std::system_error(errno, std::generic_category(), what);
    }
    return result;
}

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

Machine::Machine(Memory &memory, int vcpus) : memory_(memory) {
    kvm_ = Fd(must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm"));
    vm_ = Fd(must(ioctl(kvm_.get(), KVM_CREATE_VM, 0), "KVM_CREATE_VM"));
    must(ioctl(vm_.get(), KVM_SET_TSS_ADDR, 0xfffbd000), "KVM_SET_TSS_ADDR");
    run_bytes_ = static_cast<size_t>(must(ioctl(kvm_.get(), KVM_GET_VCPU_MMAP_SIZE, 0), "size"));
    set_slot(0, 0, memory.bytes());
    for (int i = 0; i < vcpus; i++) {
        Vcpu cpu{Fd(must(ioctl(vm_.get(), KVM_CREATE_VCPU, i), "KVM_CREATE_VCPU")), nullptr};
        void *run = mmap(nullptr, run_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, cpu.fd.get(), 0);
        must(run == MAP_FAILED ? -1 : 0, "mmap of a vCPU");
        cpu.run = static_cast<kvm_run *>(run);
        kvm_sregs system;
        must(ioctl(cpu.fd.get(), KVM_GET_SREGS, &system), "KVM_GET_SREGS");
        system.cs = flat(true);
        system.ds = system.es = system.fs = system.gs = system.ss = flat(false);
        system.cr0 |= 1;
        must(ioctl(cpu.fd.get(), KVM_SET_SREGS, &system), "KVM_SET_SREGS");
        vcpus_.push_back(std::move(cpu));
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

size_t Machine::go(int cpu, const Registers &registers, const OnExit &on_exit) {
    // Whoever runs first after fill() finds the programs overwritten; nobody is trapped for this.
    const auto put = [this](uint64_t at, const auto &bytes) {
        if (std::memcmp(memory_.at(at), bytes, sizeof(bytes)) != 0) {
            std::memcpy(memory_.at(at), bytes, sizeof(bytes));
        }
    };
    put(writer, writer_code);
    put(reader, reader_code);
    put(msr_setter, msr_setter_code);
    put(port_reader, port_reader_code);

    const Vcpu &vcpu = vcpus_[static_cast<size_t>(cpu)];
    kvm_regs regs{};
    regs.rip = registers.rip;
    regs.rax = registers.rax;
    regs.rcx = registers.rcx;
    regs.rdx = registers.rdx;
    regs.rsi = registers.rsi;
    regs.rdi = registers.rdi;
    regs.rflags = 2;
    must(ioctl(vcpu.fd.get(), KVM_SET_REGS, &regs), "KVM_SET_REGS");
    size_t exits = 0;
    while (true) {
        if (ioctl(vcpu.fd.get(), KVM_RUN, 0) < 0) {
            must(errno == EINTR || errno == EAGAIN ? 0 : -1, "KVM_RUN");
            continue;
        }
        switch (vcpu.run->exit_reason) {
        case KVM_EXIT_HLT:
            return exits;
        case KVM_EXIT_IO:
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
    return go(cpu, {writer, 0x5a5a5a5a, count, stride, at, 0}, on_exit);
}

size_t Machine::read(uint64_t at, size_t count, size_t stride, const OnExit &on_exit, int cpu) {
    return go(cpu, {reader, 0, count, stride, at, 0}, on_exit);
}

void Machine::set_msr(uint32_t msr, uint64_t value, int cpu) {
    go(cpu, {msr_setter, value & 0xffffffff, msr, value >> 32, 0, 0}, {});
}

void Machine::port_to_memory(uint64_t at, size_t count, int cpu) {
    go(cpu, {port_reader, 0, count, 0x80, 0, at}, {});
}

Trap::Trap(const Machine &machine) : Trap(machine, {{0, machine.memory().bytes()}}) {}

Trap::Trap(const Machine &machine, std::vector<Region> regions, uint32_t ring_entries)
    : machine_(machine) {
    for (const Region &region : regions) {
        regions_.push_back({machine.memory().address(region.offset), region.bytes, 0, 0});
    }
    create_.ring_entries = ring_entries;
    create_.nr_regions = static_cast<uint32_t>(regions_.size());
    create_.regions = reinterpret_cast<uint64_t>(regions_.data());
    fd_ = Fd(must(ioctl(machine.vm(), KVM_HOTSNAP_CREATE, &create_), "KVM_HOTSNAP_CREATE"));
    void *area =
        mmap(nullptr, create_.mmap_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    must(area == MAP_FAILED ? -1 : 0, "mmap of the traps");
    area_ = static_cast<std::byte *>(area);
    ring_ = reinterpret_cast<kvm_hotsnap_ring *>(area_);
}

Trap::~Trap() {
    close();
}

void Trap::close() {
    if (area_ != nullptr) {
        munmap(area_, create_.mmap_bytes);
        area_ = nullptr;
        fd_ = Fd();
    }
}

void Trap::arm(uint32_t flags) const {
    const kvm_hotsnap_arm arm{flags, 0};
    must(ioctl(fd_.get(), KVM_HOTSNAP_ARM, &arm), "KVM_HOTSNAP_ARM");
}

void Trap::disarm() const {
    must(ioctl(fd_.get(), KVM_HOTSNAP_DISARM), "KVM_HOTSNAP_DISARM");
}

void Trap::reap() const {
    must(ioctl(fd_.get(), KVM_HOTSNAP_REAP), "KVM_HOTSNAP_REAP");
}

void Trap::release(size_t offset, size_t bytes) const {
    const kvm_hotsnap_range range{machine_.memory().address(offset), bytes};
    must(ioctl(fd_.get(), KVM_HOTSNAP_RELEASE, &range), "KVM_HOTSNAP_RELEASE");
}

uint64_t *Trap::word(size_t number, uint64_t *mask) const {
    const uint64_t address = machine_.memory().address(number * page);
    for (const kvm_hotsnap_region &region : regions_) {
        if (address >= region.userspace_addr && address < region.userspace_addr + region.bytes) {
            const uint64_t bit = (address - region.userspace_addr) / page;
            *mask = uint64_t{1} << bit % 64;
            return reinterpret_cast<uint64_t *>(area_ + region.bitmap_offset) + bit / 64;
        }
    }
    throw Failed("page " + std::to_string(number) + " is in no region");
}

bool Trap::saved(size_t number) const {
    uint64_t mask;
    const uint64_t *bits = word(number, &mask);
    return (__atomic_load_n(bits, __ATOMIC_ACQUIRE) & mask) != 0;
}

bool Trap::claim(size_t number) const {
    uint64_t mask;
    uint64_t *bits = word(number, &mask);
    return (__atomic_fetch_or(bits, mask, __ATOMIC_ACQ_REL) & mask) == 0;
}

size_t Trap::take(const OnPage &on_page) const {
    const auto *entries =
        reinterpret_cast<const kvm_hotsnap_entry *>(area_ + create_.entries_offset);
    size_t pages = 0;
    while (true) {
        uint32_t tail = ring_->tail;
        if (tail == __atomic_load_n(&ring_->head, __ATOMIC_ACQUIRE)) {
            if (__atomic_load_n(&ring_->overflow, __ATOMIC_ACQUIRE) == 0) {
                return pages;
            }
            must(ioctl(fd_.get(), KVM_HOTSNAP_DRAIN), "KVM_HOTSNAP_DRAIN");
            continue;
        }
        const uint32_t slot = tail & (create_.ring_entries - 1);
        uint32_t state;
        while ((state = __atomic_load_n(&entries[slot].state, __ATOMIC_ACQUIRE)) ==
               KVM_HOTSNAP_ENTRY_EMPTY) {
        }
        if (state == KVM_HOTSNAP_ENTRY_PAGE) {
            on_page((entries[slot].addr - machine_.memory().address()) / page,
                    area_ + create_.pages_offset + slot * page);
            pages++;
        }
        __atomic_store_n(&ring_->tail, tail + 1, __ATOMIC_RELEASE);
    }
}

} // namespace hotsnap::kvmtest
