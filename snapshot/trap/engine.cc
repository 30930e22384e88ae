// SPDX-License-Identifier: GPL-2.0-or-later
#include "trap/engine.h"

#include "base/error.h"
#include "hotsnap/snapshot.h"
#include "os/thread.h"
#include "trap/kvm_trap.h"
#include "trap/none_trap.h"
#include "trap/uffd_trap.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <sys/mman.h>
#include <unistd.h>

namespace hotsnap::memory {

namespace {

constexpr uint64_t huge_bytes = 2 << 20;

// A few pages to try things on.
class Sample {
  public:
    Sample(bool shared, bool huge) {
        const uint64_t page = huge ? huge_bytes : page_bytes;
        bytes_ = 4 * page_bytes < page ? page : 4 * page_bytes;
        if (shared) {
            fd_ = Fd(memfd_create("hotsnap-probe", MFD_CLOEXEC | (huge ? MFD_HUGETLB : 0u)));
            if (!fd_ || ftruncate(fd_.get(), static_cast<off_t>(bytes_)) < 0) {
                return;
            }
        }
        const int flags =
            shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | (huge ? MAP_HUGETLB : 0);
        memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, flags, fd_.get(), 0);
        block_.idstr = "probe";
        block_.host = static_cast<std::byte *>(memory_);
        block_.length = bytes_;
        block_.page_size = page;
        block_.fd = fd_.get();
        block_.shared = shared;
    }
    ~Sample() {
        if (usable()) {
            munmap(memory_, bytes_);
        }
    }
    Sample(const Sample &) = delete;
    Sample &operator=(const Sample &) = delete;

    bool usable() const { return memory_ != MAP_FAILED; }
    const MemoryBlock &block() const { return block_; }

  private:
    Fd fd_;
    uint64_t bytes_;
    void *memory_ = MAP_FAILED;
    MemoryBlock block_;
};

bool write_faults(WriteTrap &trap, const GuestMemory &memory) {
    const MemoryBlock &block = memory.blocks().front();
    const PageRun all{&block, 0, block.pages()};
    trap.attach(memory);
    trap.prepare(all);
    trap.arm(all);
    // Relaxed: some tools do a stronger store under a lock of their own, which would stay locked.
    constexpr auto relaxed = std::memory_order_relaxed;
    auto *byte = reinterpret_cast<std::atomic<char> *>(block.host);
    std::thread writer = spawn("hs-probe", [byte] { byte->store(1, relaxed); });
    std::array<WriteFault, 1> fault;
    bool seen = false;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(2);
    while (!seen && std::chrono::steady_clock::now() < deadline) {
        seen = trap.next_faults(fault) == 1;
        std::this_thread::yield();
    }
    // Untouched while it was trapped: the kernel did hold the write back.
    const bool held = byte->load(relaxed) == 0;
    trap.detach(false);
    writer.join();
    return seen && held && byte->load(relaxed) == 1;
}

uint32_t arm_flags(uint32_t open_traps) {
    return ((open_traps & HS_OPEN_TRAP_GUEST) != 0 ? KVM_HOTSNAP_ARM_NO_GUEST_TRAP : 0u) |
           ((open_traps & HS_OPEN_TRAP_KVM) != 0 ? KVM_HOTSNAP_ARM_NO_KVM_TRAP : 0u);
}

} // namespace

std::unique_ptr<WriteTrap> make_trap(std::string_view engine, int kvm_vm_fd, uint32_t open_traps) {
    const bool kvm = kvm_hotsnap_version(kvm_vm_fd) == KVM_HOTSNAP_VERSION;
    if (engine == "kvm" && kvm_vm_fd < 0) {
        throw Error("engine kvm needs a VM that runs under KVM; start QEMU with -accel kvm, or use "
                    "engine uffd");
    }
    if (engine == "kvm" && !kvm) {
        throw Error("this host's KVM does not offer engine kvm in the version needed (" +
                    std::to_string(KVM_HOTSNAP_VERSION) +
                    "); load the patched modules (kvm-patches/), or use engine uffd");
    }
    if (engine == "kvm" || (engine == "auto" && kvm)) {
        return std::make_unique<KvmTrap>(std::make_unique<KvmVm>(kvm_vm_fd), arm_flags(open_traps));
    }
    if (engine == "auto" || engine == "uffd") {
        return std::make_unique<UffdTrap>();
    }
    if (engine == "none") {
        return std::make_unique<NoneTrap>();
    }
    throw Error("there is no snapshot engine \"" + std::string(engine) +
                "\"; choose auto, kvm, uffd or none");
}

void probe_engine(std::string_view engine, bool shared, bool huge) {
    const std::unique_ptr<WriteTrap> trap = make_trap(engine);
    if (!trap->traps()) {
        return;
    }
    Sample sample(shared, huge);
    if (!sample.usable() && huge) {
        // No huge page is free: the same kernel feature serves shared memory of small pages.
        probe_engine(engine, true, false);
        return;
    }
    if (!sample.usable()) {
        throw system_error(errno, "cannot get memory to try the snapshot engine on");
    }
    const GuestMemory memory({sample.block()});
    if (!write_faults(*trap, memory)) {
        throw Error("userfaultfd does not hold back writes on this kernel; use a stock kernel, "
                    "Linux 5.7 or newer (5.19 for shared or huge-page memory)");
    }
}

} // namespace hotsnap::memory
