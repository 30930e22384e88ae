// SPDX-License-Identifier: GPL-2.0-or-later
//
// Storage that fails: one clear error, no file left, the memory free again.
#include "snapshot_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fcntl.h>
#include <fstream>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace hotsnap::memory::test {

namespace {

constexpr uint64_t MiB = 1 << 20;

bool contains(const std::string &text, const std::string &part) {
    return text.find(part) != std::string::npos;
}

TEST(Failure, ExistingFilesAreRefusedAndKept) {
    Region ram("pc.ram", Kind::anonymous, MiB);
    Snapshot snapshot({&ram});
    std::ofstream(snapshot.image) << "precious";
    EXPECT_TRUE(contains(snapshot.create(), snapshot.image + " already exists"));
    EXPECT_EQ(snapshot.folder.files(), 1u);
    unlink(snapshot.image.c_str());
    std::ofstream(snapshot.sums) << "precious";
    EXPECT_TRUE(contains(snapshot.create(), snapshot.sums + " already exists"));
    EXPECT_EQ(snapshot.folder.files(), 1u);
    ram.memory()[0] = std::byte{1}; // not trapped
}

TEST(Failure, AFolderThatIsNotThereIsNamed) {
    Region ram("pc.ram", Kind::anonymous, MiB);
    Snapshot snapshot({&ram});
    const std::string path = snapshot.folder.path("none/state");
    snapshot.options.image_path = path.c_str();
    const std::string error = snapshot.create();
    EXPECT_TRUE(contains(error, "none")) << error;
    EXPECT_EQ(snapshot.folder.files(), 0u);
}

TEST(Failure, BadOptionsAreRefused) {
    Region ram("pc.ram", Kind::anonymous, MiB);
    Snapshot snapshot({&ram});
    snapshot.options.engine = "magic";
    EXPECT_TRUE(contains(snapshot.create(), "\"magic\""));
    snapshot.options.engine = "uffd";
    snapshot.options.tuning.cluster_pages = 3;
    EXPECT_TRUE(contains(snapshot.create(), "power of two"));
    snapshot.options.tuning.cluster_pages = 0;
    snapshot.options.struct_size = 0;
    EXPECT_TRUE(contains(snapshot.create(), "struct_size"));
    EXPECT_EQ(snapshot.folder.files(), 0u);
}

// A page that cannot be read fails the snapshot, and no thread is left waiting for it.
TEST(Failure, MemoryThatCannotBeRead) {
    Region ram("pc.ram", Kind::huge_memfd, 16 * MiB);
    if (!ram.usable()) {
        GTEST_SKIP() << ram.why();
    }
    ram.fill(0, 16 * MiB / 4096);
    const int empty = open("/dev/null", O_RDWR);
    Snapshot snapshot({&ram});
    snapshot.adjust = [=](hs_ram_block &block) { block.fd = empty; };
    Writers writers({&ram}, 3, 16 * MiB);
    ASSERT_EQ(snapshot.create(), "");
    ASSERT_EQ(snapshot.arm(), "");
    writers.pause();
    ASSERT_EQ(snapshot.cut(), "");
    writers.resume();
    std::string error = snapshot.start(); // a fault may have failed already
    if (error.empty()) {
        error = snapshot.wait();
    }
    EXPECT_TRUE(contains(error, "cannot read memory block \"pc.ram\"")) << error;
    hs_snapshot_abort(snapshot.handle(), "it has failed"); // returns when the abort is done
    EXPECT_EQ(snapshot.folder.files(), 0u);
    writers.wait_writes(10'000);
    close(empty);
}

// Runs `body` in a child with a mount namespace of its own, in which a file system of `type` is
// mounted at `path`. Returns the child's exit status: 0 passed, 77 not possible here.
template <typename Body>
int in_file_system(const std::string &path, const char *type, const char *options, Body body) {
    const pid_t child = fork();
    if (child == 0) {
        if (unshare(CLONE_NEWNS) != 0 ||
            mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
            mount("none", path.c_str(), type, 0, options) != 0) {
            _exit(77);
        }
        body();
        _exit(testing::Test::HasFailure() ? 1 : 0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

TEST(Failure, TooLittleSpaceIsNoticedBefore) {
    const Folder folder;
    const int status = in_file_system(folder.path(), "tmpfs", "size=20m", [&] {
        setenv("TMPDIR", folder.path().c_str(), 1);
        Region ram("pc.ram", Kind::anonymous, 64 * MiB);
        ram.fill(0, 64 * MiB / 4096);
        Snapshot snapshot({&ram});
        const std::string error = snapshot.create();
        EXPECT_TRUE(contains(error, "too little space for " + snapshot.image)) << error;
        EXPECT_TRUE(contains(error, "bytes are needed, 20971520 are free")) << error;
        EXPECT_EQ(snapshot.folder.files(), 0u);
    });
    if (status == 77) {
        GTEST_SKIP() << "no mount namespace for us here (root needed)";
    }
    EXPECT_EQ(status, 0);
}

TEST(Failure, SpaceThatRunsOutDuringTheCopy) {
    const Folder folder;
    const int status = in_file_system(folder.path(), "tmpfs", "size=100m", [&] {
        setenv("TMPDIR", folder.path().c_str(), 1);
        // How much of a file is in use is known: little when the space is checked. Of anonymous
        // memory, all that the process has may be in use, and a sanitizer's heap is large.
        Region ram("pc.ram", Kind::memfd, 256 * MiB);
        ram.fill(0, 1000);
        Snapshot snapshot({&ram});
        ASSERT_EQ(snapshot.create(), "");
        Writers writers({&ram}, 2, 256 * MiB);
        writers.pause();
        ram.fill(0, 256 * MiB / 4096);
        writers.resume();
        ASSERT_EQ(snapshot.arm(), "");
        writers.pause();
        ASSERT_EQ(snapshot.cut(), "");
        writers.resume();
        std::string error = snapshot.start(); // the faults alone may have filled the space
        if (error.empty()) {
            error = snapshot.wait();
        }
        EXPECT_TRUE(contains(error, "cannot write " + snapshot.image + ": No space left")) << error;
        EXPECT_TRUE(contains(error, "free space there")) << error;
        hs_snapshot_abort(snapshot.handle(), "it has failed"); // returns when all is undone
        EXPECT_EQ(snapshot.folder.files(), 0u);
        writers.wait_writes(100'000);
    });
    if (status == 77) {
        GTEST_SKIP() << "no mount namespace for us here (root needed)";
    }
    EXPECT_EQ(status, 0);
}

// ramfs has no direct I/O: the image is written through the page cache, and is the same.
TEST(Fallback, WithoutDirectIoTheImageIsTheSame) {
    const Folder folder;
    const int status = in_file_system(folder.path(), "ramfs", "", [&] {
        setenv("TMPDIR", folder.path().c_str(), 1);
        Region ram("pc.ram", Kind::anonymous, 16 * MiB);
        ram.fill(0, 2000);
        Snapshot snapshot({&ram});
        ASSERT_EQ(snapshot.create(), "");
        ASSERT_EQ(snapshot.arm(), "");
        ASSERT_EQ(snapshot.cut(), "");
        const auto expected = ram.copy();
        Writers writers({&ram}, 1, 16 * MiB);
        ASSERT_EQ(snapshot.start(), "");
        ASSERT_EQ(snapshot.wait(), "");
        EXPECT_FALSE(snapshot.stats().direct_io);
        EXPECT_TRUE(std::ranges::equal(expected, snapshot.load().blocks.at("pc.ram").memory));
    });
    if (status == 77) {
        GTEST_SKIP() << "no mount namespace for us here (root needed)";
    }
    EXPECT_EQ(status, 0);
}

// With a limit on the size of files a snapshot fails at once, whatever the file system. In a child,
// since the limit applies to the whole process.
TEST(Failure, AFileSizeLimitIsExplained) {
    const pid_t child = fork();
    if (child == 0) {
        signal(SIGXFSZ, SIG_IGN);
        const rlimit limit{8 * MiB, 8 * MiB};
        setrlimit(RLIMIT_FSIZE, &limit);
        {
            Region ram("pc.ram", Kind::anonymous, 16 * MiB);
            Snapshot snapshot({&ram});
            const std::string error = snapshot.create();
            EXPECT_TRUE(contains(error, "File too large")) << error;
            EXPECT_TRUE(contains(error, "ulimit -f")) << error;
            EXPECT_EQ(snapshot.folder.files(), 0u);
        }
        _exit(testing::Test::HasFailure() ? 1 : 0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0);
}

} // namespace

} // namespace hotsnap::memory::test
