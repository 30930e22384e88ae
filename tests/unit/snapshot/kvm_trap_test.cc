// SPDX-License-Identifier: GPL-2.0-or-later
//
// The parts of engine "kvm": bits, ring, failures, aborts.
#include "kvm_case.h"
#include "trap/engine.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace hotsnap::memory::test {

namespace {

constexpr uint64_t MiB = 1 << 20;

TEST(KvmTrap, ConfirmTellsWhoWasFirst) {
    Region ram("pc.ram", Kind::anonymous, MiB);
    MemoryBlock block;
    block.idstr = "pc.ram";
    block.host = ram.memory();
    block.length = MiB;
    const GuestMemory memory({block});
    FakeKvm kvm;
    KvmTrap trap(kvm.calls(), 0);
    trap.attach(memory);
    trap.cut();
    const MemoryBlock *all = &memory.blocks().front();
    kvm.before_write(ram.memory() + 58 * 4096);
    kvm.before_write(ram.memory() + 67 * 4096);
    // From 56 on: two words of the bitmap.
    EXPECT_EQ(trap.confirm({all, 56, 16}, 0x8f0f), 0x8f0f & ~(1 << 2) & ~(1 << 11));
    EXPECT_EQ(trap.confirm({all, 56, 16}, 0xffff), 0xffff & ~0x8f0f & ~(1 << 2) & ~(1 << 11));
    EXPECT_TRUE(trap.confirmed({all, 56, 16}));
    EXPECT_FALSE(trap.confirmed({all, 55, 2}));
    EXPECT_FALSE(trap.confirmed({all, 71, 2}));
    EXPECT_TRUE(trap.confirmed({all, 64, 1}));
    EXPECT_FALSE(kvm.guest_exits(ram.memory() + 60 * 4096));
    EXPECT_TRUE(kvm.guest_exits(ram.memory() + 55 * 4096));
    trap.detach(false);
    EXPECT_FALSE(kvm.armed());
}

TEST(KvmTrap, ReadOnlyBlocksHaveNoBits) {
    Region ram("pc.ram", Kind::anonymous, MiB);
    MemoryBlock block;
    block.idstr = "pc.bios";
    block.host = ram.memory();
    block.length = MiB;
    block.read_only = true;
    const GuestMemory memory({block});
    FakeKvm kvm;
    KvmTrap trap(kvm.calls(), 0);
    trap.attach(memory);
    EXPECT_EQ(trap.confirm({&memory.blocks().front(), 0, 16}, 0xffff), 0xffff);
    EXPECT_TRUE(trap.confirmed({&memory.blocks().front(), 0, 256}));
}

TEST(KvmTrap, RingOverflowIsDrained) {
    Region ram("pc.ram", Kind::anonymous, 4 * MiB);
    ram.fill(0, 1024);
    KvmCase test({&ram}, 4);
    test.options.tuning.staging_bytes = 1;
    test.create();
    test.cut();
    const std::vector<std::byte> at_cut = ram.copy();
    for (uint64_t i = 0; i < 1000; i++) {
        test.kvm.before_write(ram.memory() + i * 4096);
        guest_write(ram.memory() + i * 4096, 1);
    }
    test.start();
    ASSERT_EQ(test.wait(), "");
    EXPECT_EQ(test.stats().pages.kvm_write, 1000u);
    EXPECT_GT(test.kvm.drained(), 0u);
    EXPECT_TRUE(test.load().blocks.at("pc.ram").memory == at_cut);
}

TEST(KvmTrap, APageThatKvmLostFailsTheSnapshot) {
    Region ram("pc.ram", Kind::anonymous, MiB);
    KvmCase test({&ram});
    test.create();
    test.cut();
    test.kvm.lose();
    // The start comes before or after the loss is noticed.
    try {
        test.start();
        EXPECT_NE(test.wait().find("no memory left"), std::string::npos);
    } catch (const std::exception &error) {
        EXPECT_NE(std::string(error.what()).find("no memory left"), std::string::npos);
    }
    test.session().abort("it has failed"); // an abort is under way; this waits for its end
    EXPECT_EQ(test.folder.files(), 0u);
}

TEST(KvmTrap, RefusalToArmIsReported) {
    Region ram("pc.ram", Kind::anonymous, MiB);
    KvmCase test({&ram});
    test.create();
    test.kvm.fail_arm = EBUSY;
    try {
        test.cut();
        FAIL();
    } catch (const std::exception &error) {
        EXPECT_NE(std::string(error.what()).find("use engine uffd"), std::string::npos);
    }
}

TEST(KvmTrap, AbortLetsEveryoneGoOn) {
    Region ram("pc.ram", Kind::memfd, 32 * MiB);
    ram.fill(0, 8192);
    for (int round = 0; round < 8; round++) {
        KvmCase test({&ram}, 4);
        test.options.tuning.staging_bytes = 1;
        test.options.tuning.bandwidth = 1;
        test.run_vcpus(2);
        test.run_devices(1);
        test.run_kvm(1);
        test.create();
        test.pause();
        test.cut();
        test.resume();
        if (round % 2 == 0) {
            test.start();
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(round * 5));
        test.session().abort("changed my mind");
        EXPECT_FALSE(test.kvm.armed());
        EXPECT_EQ(test.folder.files(), 0u);
        if (round % 2 == 0) {
            EXPECT_EQ(test.wait(), "changed my mind");
        }
        test.stop_actors(); // none hangs
    }
}

TEST(KvmTrap, WritesOutsideOfTheSnapshotsMemory) {
    Region ram("pc.ram", Kind::anonymous, MiB);
    KvmCase test({&ram});
    test.create();
    test.cut();
    int elsewhere = 0;
    EXPECT_FALSE(test.session().before_guest_write(&elsewhere));
    test.session().before_dma_write(&elsewhere, sizeof(elsewhere));
    // Beyond the end of the block.
    test.session().before_dma_write(ram.memory() + MiB - 8, 4096);
    EXPECT_EQ(test.stats().pages.dma_write, 16u);
    EXPECT_EQ(test.stats().pages.neighbors, 15u);
    EXPECT_EQ(test.stats().faults, 1u);
}

TEST(KvmEngine, NeedsAKvmThatOffersIt) {
    EXPECT_STREQ(make_trap("auto")->name(), "uffd");
    for (const int vm_fd : {-1, 0}) {
        try {
            make_trap("kvm", vm_fd);
            FAIL();
        } catch (const std::exception &error) {
            EXPECT_NE(std::string(error.what()).find("use engine uffd"), std::string::npos);
        }
    }
}

} // namespace

} // namespace hotsnap::memory::test
