// SPDX-License-Identifier: GPL-2.0-or-later
//
// A virtual machine as small as can be: memory, vCPUs in 32-bit mode, and programs of a few bytes
// that write, read, set an MSR, take bytes from a port, or have KVM emulate an instruction.
#pragma once

#include <linux/kvm.h>
#include <linux/kvm_hotsnap.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace hotsnap::kvmtest {

inline constexpr size_t page = 4096;
inline constexpr size_t MiB = 1 << 20;

// A test's reason to fail.
struct Failed : std::runtime_error {
    using std::runtime_error::runtime_error;
};

void check(bool condition, const std::string &otherwise);

// The result of a system call, which must not be negative.
int must(int result, const char *what);

class Fd {
  public:
    explicit Fd(int fd = -1) : fd_(fd) {}
    Fd(Fd &&other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
    Fd &operator=(Fd &&other) noexcept;
    ~Fd();
    int get() const { return fd_; }

  private:
    int fd_;
};

// Memory of this process that a machine uses.
class Memory {
  public:
    explicit Memory(size_t bytes, bool huge = false);
    ~Memory();
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;

    std::byte *at(size_t offset) const { return base_ + offset; }
    uint64_t address(size_t offset = 0) const { return reinterpret_cast<uint64_t>(base_) + offset; }
    size_t bytes() const { return bytes_; }
    size_t pages() const { return bytes_ / page; }
    size_t huge_bytes() const; // in huge pages now
    // Each page gets content of its own, which `seed` changes.
    void fill(uint64_t seed);
    bool page_is(size_t number, const std::vector<std::byte> &copy) const;

  private:
    std::byte *base_;
    size_t bytes_;
};

// The programs that a vCPU can run; machine.cc has their code.
enum class Program {
    write,
    read,
    set_msr,
    port_to_memory,
    emulated_write,    // EAX to ESI
    emulated_push,     // EAX to below ESP
    emulated_exchange, // locked: ECX to ESI, if EAX is there
    save_vmcb,         // VMSAVE to EAX
    switch_task,       // to the other task
    wait,              // for an interrupt, which ends it
    interrupted,
    count
};

class Machine {
  public:
    // This page holds the programs, a table of segments and one of interrupts; the next page is the
    // stack for interrupts. Tests leave both alone. (The TSS of Intel's real mode is outside of
    // memory.)
    static constexpr uint64_t code = 0;
    static constexpr uint64_t stack = 2 * page;
    static constexpr uint64_t alias = 1u << 30; // of a second slot
    static constexpr uint8_t vector = 0x40;     // of the only interrupt that it takes
    static constexpr uint64_t task = 20 * page; // the running task's state, and the other's
    static constexpr uint64_t other_task = 21 * page;

    struct Kind {
        int vcpus = 1;
        bool irqchip = false; // KVM's own APIC, which is enabled
    };
    explicit Machine(Memory &memory) : Machine(memory, Kind{}) {}
    Machine(Memory &memory, Kind kind);
    ~Machine();

    struct Registers {
        uint64_t rax = 0, rcx = 0, rdx = 0, rsi = 0, rdi = 0, rsp = stack, rflags = 2;
    };
    // Runs a program. `on_exit` is called for each KVM_EXIT_HOTSNAP; without it there must be none.
    // Returns how many there were.
    using OnExit = std::function<void(const kvm_hotsnap_exit &)>;
    size_t run(Program program, const Registers &registers, const OnExit &on_exit = {},
               int cpu = 0);

    // One vCPU does `count` steps from `at` on, each `stride` further.
    size_t write(uint64_t at, size_t count, size_t stride, const OnExit &on_exit = {}, int cpu = 0);
    size_t read(uint64_t at, size_t count, size_t stride, const OnExit &on_exit = {}, int cpu = 0);
    void set_msr(uint32_t msr, uint64_t value, int cpu = 0);
    // KVM's emulator writes `count` bytes of 0xa5.
    void port_to_memory(uint64_t at, size_t count, int cpu = 0);
    // An interrupt comes, and is never acknowledged; the machine must have an irqchip.
    size_t interrupt(const OnExit &on_exit = {});

    // Switches from the first task to the other one, which does nothing. Each call begins anew.
    size_t switch_task(const OnExit &on_exit = {});
    // Writes the other task's state; tests that switch call this before.
    void put_task() const;

    // Two-level paging with this page directory, in addition to `efer`.
    void set_paging(uint64_t directory, uint64_t efer = 0) const;

    void set_slot(uint32_t slot, uint64_t gpa, size_t bytes, uint32_t flags = 0) const;
    std::vector<uint64_t> dirty_log(uint32_t slot) const;

    Memory &memory() const { return memory_; }
    int vm() const { return vm_.get(); }
    int vcpu(int cpu = 0) const { return vcpus_[static_cast<size_t>(cpu)].fd.get(); }

  private:
    struct Vcpu {
        Fd fd;
        kvm_run *run;
    };
    void put_code() const;

    Memory &memory_;
    Fd kvm_;
    Fd vm_;
    size_t run_bytes_;
    std::vector<Vcpu> vcpus_;
    kvm_lapic_state apic_{}; // as it was before any interrupt
};

} // namespace hotsnap::kvmtest
