// SPDX-License-Identifier: GPL-2.0-or-later
//
// Engine "kvm" on a fake KVM: the image is the memory at the cut while vCPUs, devices and KVM
// write. With any of the engine's traps open, or with every copy counted, it is not.
#include "base/error.h"
#include "kvm_case.h"

#include <gtest/gtest.h>

#include <cstring>

namespace hotsnap::memory::test {

namespace {

constexpr uint64_t MiB = 1 << 20;

struct Case {
    const char *name;
    Kind kind;
    uint32_t ring_entries;
    uint64_t cluster_pages;
    uint64_t staging_bytes;
};

std::ostream &operator<<(std::ostream &out, const Case &setup) {
    return out << setup.name;
}

class KvmIdentity : public testing::TestWithParam<Case> {};

TEST_P(KvmIdentity, ImageIsTheMemoryAtTheCut) {
    const Case &setup = GetParam();
    const uint64_t size = 24 * MiB;
    Region ram("pc.ram", setup.kind, size);
    if (!ram.usable()) {
        GTEST_SKIP() << ram.why();
    }
    Region rom("pc.rom", Kind::anonymous, 131 * 4096);
    ram.fill(0, size / 4096 / 4); // half of the pages to write are absent at first
    rom.fill(3, 77);
    KvmCase test({&ram, &rom}, setup.ring_entries);
    test.options.tuning.cluster_pages = setup.cluster_pages;
    test.options.tuning.staging_bytes = setup.staging_bytes;
    test.options.tuning.bandwidth = 64 * MiB;
    test.run_vcpus(2);
    test.run_devices(1);
    test.run_kvm(2);
    test.create();
    test.pause();
    test.cut();
    const std::vector<std::byte> ram_at_cut = ram.copy();
    const std::vector<std::byte> rom_at_cut = rom.copy();
    // One write of each kind where the threads do not write: on a busy host one thread could have
    // been everywhere before another has had its turn.
    std::byte *const quiet = ram.memory() + size / 4 * 3;
    EXPECT_TRUE(test.session().before_guest_write(quiet));
    test.session().before_dma_write(quiet + 2 * MiB, 4096);
    test.kvm.before_write(quiet + 4 * MiB);
    for (const uint64_t at : {0 * MiB, 2 * MiB, 4 * MiB}) {
        guest_write(quiet + at, 1);
    }
    test.resume();
    test.start();
    ASSERT_EQ(test.wait(), "");
    EXPECT_FALSE(test.kvm.armed());
    EXPECT_GT(test.kvm.reaps(), 0u);
    test.pause();

    const LoadedImage image = test.load();
    EXPECT_EQ(torn_pages(ram_at_cut, image.blocks.at("pc.ram").memory), 0u);
    EXPECT_EQ(torn_pages(rom_at_cut, image.blocks.at("pc.rom").memory), 0u);
    EXPECT_NE(torn_pages(ram_at_cut, ram.copy()), 0u);

    const hs_snapshot_stats stats = test.stats();
    EXPECT_STREQ(stats.engine, "kvm");
    EXPECT_EQ(stats.pages.background + stats.pages.guest_write + stats.pages.dma_write +
                  stats.pages.kvm_write,
              stats.pages.total);
    EXPECT_EQ(stats.bytes_done, stats.bytes_total);
    EXPECT_GT(stats.pages.guest_write, 0u);
    EXPECT_GT(stats.pages.dma_write, 0u);
    EXPECT_GT(stats.pages.kvm_write, 0u);
    EXPECT_GT(stats.faults, 0u);
    EXPECT_EQ(stats.arm_us, 0u);
    EXPECT_EQ(stats.arm_passes, 0u);
    EXPECT_EQ(stats.cut_pages, 0u);
}

INSTANTIATE_TEST_SUITE_P(Kinds, KvmIdentity,
                         testing::Values(Case{"anonymous", Kind::anonymous, 1024, 0, 0},
                                         Case{"memfd", Kind::memfd, 1024, 0, 0},
                                         Case{"hugetlbfs", Kind::huge_memfd, 1024, 0, 0},
                                         Case{"onePageClusters", Kind::anonymous, 1024, 1, 0},
                                         Case{"largeClusters", Kind::anonymous, 1024, 128, 0},
                                         Case{"littleRing", Kind::anonymous, 2, 0, 0},
                                         Case{"littleStaging", Kind::anonymous, 4, 0, 1}),
                         [](const auto &info) { return std::string(info.param.name); });

// A vCPU writes to the first page, a device to the 100th, KVM to the 200th; tells which are torn.
std::vector<uint64_t> torn_with(uint32_t arm_flags, bool open_dma_trap) {
    Region ram("pc.ram", Kind::anonymous, 16 * MiB);
    ram.fill(0, 4096);
    KvmCase test({&ram});
    test.arm_flags = arm_flags;
    test.options.open_dma_trap = open_dma_trap;
    test.create();
    test.cut();
    const std::vector<std::byte> at_cut = ram.copy();
    const auto write = [&](uint64_t page) {
        guest_write(ram.memory() + page * 4096, static_cast<uint8_t>(page + 1));
        guest_write(ram.memory() + page * 4096 + 4095, static_cast<uint8_t>(page + 2));
    };
    if (test.kvm.guest_exits(ram.memory())) {
        test.session().before_guest_write(ram.memory());
    }
    write(0);
    test.session().before_dma_write(ram.memory() + 100 * 4096, 4096);
    write(100);
    test.kvm.before_write(ram.memory() + 200 * 4096);
    write(200);
    test.start();
    EXPECT_EQ(test.wait(), "");
    const LoadedImage image = test.load();
    const std::vector<std::byte> &memory = image.blocks.at("pc.ram").memory;
    std::vector<uint64_t> torn;
    for (size_t at = 0; at < at_cut.size(); at += 4096) {
        if (std::memcmp(&memory[at], &at_cut[at], 4096) != 0) {
            torn.push_back(at / 4096);
        }
    }
    return torn;
}

TEST(KvmControl, EachTrapIsNeeded) {
    using Pages = std::vector<uint64_t>;
    EXPECT_EQ(torn_with(0, false), Pages{});
    EXPECT_EQ(torn_with(KVM_HOTSNAP_ARM_NO_GUEST_TRAP, false), Pages{0});
    EXPECT_EQ(torn_with(0, true), Pages{100});
    EXPECT_EQ(torn_with(KVM_HOTSNAP_ARM_NO_KVM_TRAP, false), Pages{200});
}

// KVM has saved a page and written to it, and its copy is not published yet, when the library
// copies the page too.
Session *late_session;

uint64_t torn_with_late_copy(bool confirms) {
    Region ram("pc.ram", Kind::anonymous, MiB);
    ram.fill(0, 256);
    KvmCase test({&ram});
    test.confirms = confirms;
    test.create();
    test.cut();
    const std::vector<std::byte> at_cut = ram.copy();
    late_session = &test.session();
    test.kvm.before_write(ram.memory() + 5 * 4096, [](const std::byte *page) {
        guest_write(const_cast<std::byte *>(page), 0xee);
        guest_write(const_cast<std::byte *>(page) + 1, 0xee);
        // A vCPU writes to the next page, of the same cluster.
        late_session->before_guest_write(page + 4096);
    });
    try {
        test.start();
    } catch (const Error &) {
        return 256; // as below, before the start
    }
    if (!test.wait().empty()) {
        return 256; // the ledger noticed: KVM brought a page that counted as saved
    }
    return torn_pages(at_cut, test.load().blocks.at("pc.ram").memory);
}

TEST(KvmControl, WhoseCopyCountsMustBeAsked) {
    EXPECT_EQ(torn_with_late_copy(true), 0u);
    EXPECT_GT(torn_with_late_copy(false), 0u);
}

// Memory that is written past every trap is saved in the pause.
uint64_t torn_untrapped(bool save_at_cut) {
    Region ram("pc.ram", Kind::anonymous, 4 * MiB);
    Region vram("vga.vram", Kind::anonymous, 2 * MiB);
    ram.fill(0, 100);
    vram.fill(0, 300);
    KvmCase test({&ram, &vram});
    test.adjust = [&](MemoryBlock &block) {
        block.save_at_cut = save_at_cut && block.idstr == "vga.vram";
    };
    test.create();
    test.cut();
    EXPECT_EQ(test.stats().pages.background, save_at_cut ? 512u : 0u);
    const std::vector<std::byte> at_cut = vram.copy();
    vram.fill(100, 412);
    test.start();
    EXPECT_EQ(test.wait(), "");
    return torn_pages(at_cut, test.load().blocks.at("vga.vram").memory);
}

TEST(KvmSaveAtCut, BlocksWrittenWithoutATrap) {
    EXPECT_EQ(torn_untrapped(true), 0u);
    EXPECT_GT(torn_untrapped(false), 0u);
}

} // namespace

} // namespace hotsnap::memory::test
