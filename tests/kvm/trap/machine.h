// SPDX-License-Identifier: GPL-2.0-or-later
//
// A virtual machine as small as can be: memory, vCPUs in 32-bit mode without paging, and four
// programs of a few bytes that write, read, set an MSR, or take bytes from a port. And the write
// traps of the patched KVM on that memory.
#pragma once

#include <linux/kvm.h>
#include <linux/kvm_hotsnap.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
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

class Machine {
  public:
    // Where the programs lie; tests leave this page alone. (The TSS of Intel's real mode is
    // outside of memory.)
    static constexpr uint64_t code = 0;
    static constexpr uint64_t alias = 1u << 30; // of a second slot

    explicit Machine(Memory &memory, int vcpus = 1);
    ~Machine();

    // One vCPU does `count` steps from `at` on, each `stride` further. `on_exit` is called for
    // each KVM_EXIT_HOTSNAP; without it there must be none. Return how many there were.
    using OnExit = std::function<void(const kvm_hotsnap_exit &)>;
    size_t write(uint64_t at, size_t count, size_t stride, const OnExit &on_exit = {}, int cpu = 0);
    size_t read(uint64_t at, size_t count, size_t stride, const OnExit &on_exit = {}, int cpu = 0);
    void set_msr(uint32_t msr, uint64_t value, int cpu = 0);
    // KVM's emulator writes `count` bytes of 0xa5.
    void port_to_memory(uint64_t at, size_t count, int cpu = 0);

    void set_slot(uint32_t slot, uint64_t gpa, size_t bytes, uint32_t flags = 0) const;
    std::vector<uint64_t> dirty_log(uint32_t slot) const;

    Memory &memory() const { return memory_; }
    int vm() const { return vm_.get(); }

  private:
    struct Vcpu {
        Fd fd;
        kvm_run *run;
    };
    struct Registers {
        uint64_t rip, rax = 0, rcx = 0, rdx = 0, rsi = 0, rdi = 0;
    };
    size_t go(int cpu, const Registers &registers, const OnExit &on_exit);

    Memory &memory_;
    Fd kvm_;
    Fd vm_;
    size_t run_bytes_;
    std::vector<Vcpu> vcpus_;
};

// The traps. Regions are given as offsets into the memory.
class Trap {
  public:
    struct Region {
        size_t offset, bytes;
    };
    // Throws std::system_error with KVM's refusal.
    Trap(const Machine &machine, std::vector<Region> regions, uint32_t ring_entries = 64);
    explicit Trap(const Machine &machine);
    ~Trap();

    void arm(uint32_t flags = 0) const;
    void disarm() const;
    void reap() const;
    void release(size_t offset, size_t bytes) const;
    void close();

    // By page number of the memory, which must be in a region.
    bool saved(size_t number) const;
    // Sets the bit; false when it was set already.
    bool claim(size_t number) const;

    // Hands over what is in the ring, and drains what did not fit. `data` is 4 KiB.
    using OnPage = std::function<void(size_t number, const std::byte *data)>;
    size_t take(const OnPage &on_page) const;

    const kvm_hotsnap_ring &ring() const { return *ring_; }

  private:
    uint64_t *word(size_t number, uint64_t *mask) const;

    const Machine &machine_;
    std::vector<kvm_hotsnap_region> regions_;
    kvm_hotsnap_create create_{};
    Fd fd_;
    std::byte *area_ = nullptr;
    kvm_hotsnap_ring *ring_ = nullptr;
};

} // namespace hotsnap::kvmtest
