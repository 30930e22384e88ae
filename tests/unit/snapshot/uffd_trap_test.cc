// SPDX-License-Identifier: GPL-2.0-or-later
#include "trap/uffd_trap.h"

#include "guest.h"
#include "trap/engine.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace hotsnap::memory {

namespace {

using test::block_of;
using test::guest_read;
using test::guest_write;
using test::Kind;
using test::Region;

constexpr uint64_t MiB = 1 << 20;

WriteFault next_fault(UffdTrap &trap) {
    std::array<WriteFault, 1> fault;
    while (trap.next_faults(fault) == 0) {
        std::this_thread::yield();
    }
    return fault[0];
}

class Trap : public testing::TestWithParam<Kind> {};

INSTANTIATE_TEST_SUITE_P(Kinds, Trap,
                         testing::Values(Kind::anonymous, Kind::memfd, Kind::private_memfd,
                                         Kind::huge_memfd, Kind::huge_anonymous));

TEST_P(Trap, HoldsWritesToPopulatedAndUntouchedPagesUntilReleased) {
    Region region("ram", GetParam(), 4 * MiB);
    if (!region.usable()) {
        GTEST_SKIP() << region.why();
    }
    region.fill(0, 512); // the second half stays untouched
    const GuestMemory memory({block_of(region)});
    const MemoryBlock &block = memory.blocks().front();
    UffdTrap trap;
    trap.attach(memory);
    trap.arm({&block, 0, block.pages()});
    for (const uint64_t page : {uint64_t{7}, block.pages() - 1}) {
        std::atomic<int> tid = 0;
        std::atomic<bool> written = false;
        std::thread writer([&] {
            tid = gettid();
            guest_write(block.host + page * page_bytes + 9, 'x');
            written = true;
        });
        const WriteFault fault = next_fault(trap);
        const PageRun unit = GuestMemory::aligned_run(block, page, 1);
        EXPECT_GE(fault.address, reinterpret_cast<uint64_t>(unit.host()));
        EXPECT_LT(fault.address, reinterpret_cast<uint64_t>(unit.host()) + unit.bytes());
        EXPECT_EQ(fault.tid, tid);
        EXPECT_FALSE(written);
        EXPECT_NE(guest_read(block.host + page * page_bytes + 9), 'x');
        trap.release(unit);
        writer.join();
        EXPECT_EQ(guest_read(block.host + page * page_bytes + 9), 'x');
    }
}

TEST_P(Trap, DetachLetsEveryoneGo) {
    Region region("ram", GetParam(), 4 * MiB);
    if (!region.usable()) {
        GTEST_SKIP() << region.why();
    }
    const GuestMemory memory({block_of(region)});
    const MemoryBlock &block = memory.blocks().front();
    UffdTrap trap;
    trap.attach(memory);
    trap.arm({&block, 0, block.pages()});
    std::vector<std::thread> writers;
    for (uint64_t i = 0; i < 4; i++) {
        writers.emplace_back([&, i] { guest_write(block.host + i * MiB, 'x'); });
    }
    next_fault(trap); // read and never answered: detach has to wake its thread all the same
    trap.detach(false);
    for (std::thread &writer : writers) {
        writer.join();
    }
    trap.release({&block, 0, block.pages()}); // harmless
    // The memory is free for the next trap.
    UffdTrap other;
    other.attach(memory);
}

TEST(UffdTrap, KernelWritesAreTrappedToo) {
    Region region("ram", Kind::anonymous, MiB);
    region.fill(0, 256);
    const GuestMemory memory({block_of(region)});
    const MemoryBlock &block = memory.blocks().front();
    UffdTrap trap;
    trap.attach(memory);
    trap.arm({&block, 0, block.pages()});
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    ASSERT_EQ(write(ends[1], "dma", 3), 3);
    const uint8_t before = guest_read(block.host + 100 * page_bytes);
    std::thread device([&] { // not read(), which sanitizers intercept
        EXPECT_EQ(syscall(SYS_read, ends[0], block.host + 100 * page_bytes, 3), 3);
    });
    const WriteFault fault = next_fault(trap);
    EXPECT_EQ(fault.address / page_bytes * page_bytes,
              reinterpret_cast<uint64_t>(block.host + 100 * page_bytes));
    EXPECT_EQ(guest_read(block.host + 100 * page_bytes), before);
    trap.release({&block, 100, 1});
    device.join();
    EXPECT_EQ(guest_read(block.host + 100 * page_bytes), 'd');
    close(ends[0]);
    close(ends[1]);
}

// The way of kernels before 6.4: untouched anonymous memory is given the zero page first.
TEST(UffdTrap, WithoutTheFeatureForUntouchedMemoryItIsPopulatedAndTrapped) {
    Region region("ram", Kind::anonymous, 4 * MiB);
    const GuestMemory memory({block_of(region)});
    const MemoryBlock &block = memory.blocks().front();
    UffdTrap trap(UffdTrap::Features{.wp_unpopulated = false});
    trap.attach(memory);
    EXPECT_FALSE(trap.absent_pagemap_entry());
    const PageRun all{&block, 0, block.pages()};
    trap.prepare(all);
    trap.arm(all);
    std::thread writer([&] { guest_write(block.host + 3 * MiB, 'x'); });
    next_fault(trap);
    EXPECT_EQ(guest_read(block.host + 3 * MiB), 0);
    trap.release(all);
    writer.join();
}

TEST(UffdTrap, WaitEndsByFaultAndByWake) {
    Region region("ram", Kind::anonymous, MiB);
    const GuestMemory memory({block_of(region)});
    const MemoryBlock &block = memory.blocks().front();
    UffdTrap trap;
    trap.attach(memory);
    trap.arm({&block, 0, block.pages()});
    trap.wake();
    trap.wait();
    std::thread writer([&] { guest_write(block.host, 'x'); });
    trap.wait();
    next_fault(trap);
    trap.detach(false);
    writer.join();
}

TEST(UffdTrap, ReadOnlyBlocksAreLeftAlone) {
    Region ram("ram", Kind::anonymous, MiB);
    Region rom("rom", Kind::anonymous, MiB);
    MemoryBlock block = block_of(rom);
    block.read_only = true;
    const GuestMemory memory({block_of(ram), block});
    UffdTrap trap;
    trap.attach(memory);
    trap.arm({&memory.blocks()[1], 0, 256});
    rom.memory()[5] = std::byte{1}; // does not stop
}

TEST(UffdTrap, MemoryOfADiskFileIsRefusedWithAHint) {
    const test::Folder folder;
    const std::string path = "guest-memory-test.tmp"; // not on tmpfs, where it could be trapped
    const Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600));
    unlink(path.c_str());
    ASSERT_EQ(ftruncate(fd.get(), MiB), 0);
    void *memory = mmap(nullptr, MiB, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    ASSERT_NE(memory, MAP_FAILED);
    MemoryBlock block;
    block.idstr = "file.ram";
    block.host = static_cast<std::byte *>(memory);
    block.length = MiB;
    block.fd = fd.get();
    block.shared = true;
    UffdTrap trap;
    try {
        trap.attach(GuestMemory({block}));
        GTEST_SKIP() << "the current directory is on tmpfs";
    } catch (const std::runtime_error &error) {
        EXPECT_NE(std::string(error.what()).find("file.ram"), std::string::npos) << error.what();
        EXPECT_NE(std::string(error.what()).find("disk"), std::string::npos) << error.what();
    }
    munmap(memory, MiB);
}

TEST(UffdTrap, TwoTrapsOnOneMemoryAreRefused) {
    Region region("ram", Kind::anonymous, MiB);
    const GuestMemory memory({block_of(region)});
    UffdTrap one;
    one.attach(memory);
    UffdTrap two;
    EXPECT_THROW(two.attach(memory), std::runtime_error);
}

// In a process of its own, since the test gives its rights away.
TEST(UffdTrap, WithoutPermissionTheErrorSaysWhatToDo) {
    if (geteuid() != 0) {
        GTEST_SKIP() << "needs root, to give rights away";
    }
    const pid_t child = fork();
    if (child == 0) {
        char *error = nullptr;
        if (setresgid(65534, 65534, 65534) != 0 || setresuid(65534, 65534, 65534) != 0) {
            _exit(2);
        }
        if (hs_engine_probe("uffd", false, false, &error)) {
            _exit(3); // permitted to all here
        }
        const std::string text = error;
        const bool says = text.find("vm.unprivileged_userfaultfd") != std::string::npos &&
                          text.find("CAP_SYS_PTRACE") != std::string::npos &&
                          text.find("/dev/userfaultfd") != std::string::npos;
        _exit(says ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFEXITED(status));
    if (WEXITSTATUS(status) == 3) {
        GTEST_SKIP() << "this machine permits userfaultfd to every user";
    }
    EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Engine, ProbeTriesEveryKind) {
    for (const bool shared : {false, true}) {
        for (const bool huge : {false, true}) {
            char *error = nullptr;
            EXPECT_TRUE(hs_engine_probe("auto", shared, huge, &error)) << error;
        }
    }
    EXPECT_TRUE(hs_engine_probe("none", true, false, nullptr));
    char *error = nullptr;
    EXPECT_FALSE(hs_engine_probe("magic", false, false, &error));
    EXPECT_NE(std::string(error).find("\"magic\""), std::string::npos);
    hs_string_free(error);
}

} // namespace

} // namespace hotsnap::memory
