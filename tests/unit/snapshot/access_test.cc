// SPDX-License-Identifier: GPL-2.0-or-later
//
// The working set: noted, kept as a file, and turned into what is loaded before the start.
#include "access/access_file.h"
#include "access/access_map.h"
#include "base/error.h"
#include "guest.h"
#include "image/checksums.h"
#include "restore/prefetch.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

namespace hotsnap::memory {

namespace {

constexpr uint64_t image = 0x1234;
constexpr uint64_t image_pages = 5000;
constexpr uint64_t ms = 1'000'000;

std::vector<Access> any_accesses() {
    return *rc::gen::container<std::vector<Access>>(
        rc::gen::build<Access>(rc::gen::set(&Access::page, rc::gen::inRange<uint64_t>(0, 5000)),
                               rc::gen::set(&Access::ms, rc::gen::inRange<uint32_t>(0, 3000))));
}

// By page, the end of its bucket.
std::map<uint64_t, uint32_t> times_of(const AccessMap &map) {
    std::map<uint64_t, uint32_t> times;
    for (const Access &access : map.accesses()) {
        times.emplace(access.page, access.ms + 1);
    }
    return times;
}

bool refused(std::span<const std::byte> bytes) {
    try {
        AccessMap::decode(bytes, image, image_pages);
        return false;
    } catch (const Error &) {
        return true;
    }
}

TEST(AccessLog, NotesOfManyThreadsUpToItsSize) {
    AccessLog log(1000);
    log.note(7, 123); // before the guest runs
    log.begin(500 * ms);
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 4; t++) {
        threads.emplace_back([&log, t] {
            for (uint64_t i = 0; i < 400; i++) {
                log.note(t * 400 + i, (500 + 3 * i) * ms);
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    const std::vector<Access> found = log.accesses();
    ASSERT_EQ(found.size(), 1000u);
    EXPECT_EQ(found[0], (Access{7, 0}));
    for (const Access &access : found) {
        EXPECT_TRUE(access.page == 7 || access.ms == access.page % 400 * 3);
    }
    log.note(uint64_t{1} << 40, 600 * ms); // more than there is room for
    EXPECT_EQ(log.accesses().size(), 1000u);
}

RC_GTEST_PROP(AccessMap, EachPageIsInTheBucketOfItsEarliestTime, ()) {
    const std::vector<Access> accesses = any_accesses();
    std::map<uint64_t, uint32_t> earliest;
    for (const Access &access : accesses) {
        const auto [at, fresh] = earliest.emplace(access.page, access.ms);
        at->second = std::min(at->second, access.ms);
    }
    const AccessMap map(accesses);
    const auto times = times_of(map);
    RC_ASSERT(times.size() == earliest.size());
    RC_ASSERT(map.pages() == earliest.size());
    for (const auto &[page, end_ms] : times) {
        const uint32_t begin_ms = end_ms == 50 ? 0 : end_ms / 2;
        RC_ASSERT((earliest.at(page) >= begin_ms && earliest.at(page) < end_ms));
    }
}

RC_GTEST_PROP(AccessMap, MergingIsTheSameAsAllAtOnce, ()) {
    const std::vector<Access> first = any_accesses();
    const std::vector<Access> second = any_accesses();
    std::vector<Access> all = first;
    all.insert(all.end(), second.begin(), second.end());
    AccessMap map(first);
    const bool changed = map.merge(second);
    RC_ASSERT(map.buckets() == AccessMap(all).buckets());
    RC_ASSERT(changed == (map.buckets() != AccessMap(first).buckets()));
    RC_ASSERT(!map.merge(second));
}

RC_GTEST_PROP(AccessMap, AFileIsReadAsItWasWritten, ()) {
    const AccessMap map(any_accesses());
    RC_ASSERT(AccessMap::decode(map.encode(image), image, image_pages).buckets() == map.buckets());
}

TEST(AccessMap, DamagedAndForeignFilesAreRefused) {
    const AccessMap map({{1, 0}, {2, 0}, {900, 60}, {4999, 100}});
    const std::vector<std::byte> good = map.encode(image);
    EXPECT_FALSE(refused(good)); // the control
    for (size_t size = 0; size < good.size(); size++) {
        EXPECT_TRUE(refused(std::span(good).first(size)));
    }
    for (size_t i = 0; i < good.size(); i++) {
        std::vector<std::byte> bad = good;
        bad[i] ^= std::byte{1};
        EXPECT_EQ(refused(bad), i < 40 || i >= 64) << i; // the rest of the head is not in use
    }
    EXPECT_THROW(AccessMap::decode(good, image + 1, image_pages), Error);
    EXPECT_THROW(AccessMap::decode(good, image, 4999), Error); // a page beyond the image's end
}

// A file with a right checksum, of which somebody has thought up the content.
TEST(AccessMap, HostileFilesAreRefused) {
    const auto with = [](const std::vector<AccessMap::Run> &runs, uint32_t end_ms) {
        const AccessMap one({{1, 0}});
        std::vector<std::byte> body = one.encode(image);
        body.resize(64);
        std::vector<std::byte> rest(16 + runs.size() * 16);
        const uint64_t count = runs.size();
        std::memcpy(rest.data(), &end_ms, 4);
        std::memcpy(rest.data() + 8, &count, 8);
        std::memcpy(rest.data() + 16, runs.data(), runs.size() * 16);
        const uint64_t sum = bytes_xxh3(rest);
        std::memcpy(body.data() + 16, &count, 8);
        std::memcpy(body.data() + 32, &sum, 8);
        body.insert(body.end(), rest.begin(), rest.end());
        return body;
    };
    EXPECT_FALSE(refused(with({{1, 3}, {9, 1}}, 50)));   // the control
    EXPECT_TRUE(refused(with({{9, 1}, {1, 3}}, 50)));    // not in order
    EXPECT_TRUE(refused(with({{1, 3}, {3, 1}}, 50)));    // one over the other
    EXPECT_TRUE(refused(with({{1, 0}}, 50)));            // nothing
    EXPECT_TRUE(refused(with({{4999, 2}}, 50)));         // beyond the image
    EXPECT_TRUE(refused(with({{1, ~uint64_t{0}}}, 50))); // around the end of numbers
    EXPECT_TRUE(refused(with({{1, 3}}, 51)));            // no time of ours
    EXPECT_TRUE(refused(with({{1, 3}}, 0xffffffff)));    // the same
    EXPECT_TRUE(refused(with({{1, 3}}, 0)));
}

// What the window promises, against a guest and a loader that are played through.
RC_GTEST_PROP(AccessMap, WithTheWindowLoadingStaysAheadOfTheGuest, ()) {
    const AccessMap map(any_accesses());
    const auto rate = *rc::gen::inRange<uint64_t>(0, 20000);
    const uint64_t window = map.window(static_cast<double>(rate));
    RC_ASSERT(window <= map.pages());
    const auto stays_ahead = [&](uint64_t before) {
        uint64_t wanted = 0;
        for (const AccessMap::Bucket &bucket : map.buckets()) {
            for (const AccessMap::Run &run : bucket.runs) {
                wanted += run.count;
            }
            const double begins = bucket.end_ms == 50 ? 0 : bucket.end_ms / 2.0;
            const double there =
                static_cast<double>(before) + static_cast<double>(rate) * begins / 1000;
            if (there < static_cast<double>(wanted) - 1e-6) {
                return false;
            }
        }
        return true;
    };
    RC_ASSERT(stays_ahead(window));
    RC_ASSERT((window == 0 || !stays_ahead(window - 1)));
}

TEST(AccessFile, IsAHint) {
    const test::Folder folder;
    const std::string path = folder.path("access");
    EXPECT_TRUE(read_access_file(path, image, image_pages).empty());
    const AccessMap map({{1, 0}, {900, 60}});
    ASSERT_TRUE(write_access_file(path, map, image));
    EXPECT_EQ(read_access_file(path, image, image_pages).buckets(), map.buckets());
    EXPECT_TRUE(read_access_file(path, image + 1, image_pages).empty());
    EXPECT_FALSE(write_access_file(folder.path("no/access"), map, image));
    std::ofstream(path, std::ios::app) << "x";
    EXPECT_TRUE(read_access_file(path, image, image_pages).empty());
    ASSERT_TRUE(write_access_file(path, map, image)); // in its place
    EXPECT_EQ(read_access_file(path, image, image_pages).buckets(), map.buckets());
    std::filesystem::resize_file(path, uint64_t{1} << 40);
    EXPECT_TRUE(read_access_file(path, image, image_pages).empty());
    std::filesystem::remove(path);
    std::filesystem::create_directory(path);
    EXPECT_TRUE(read_access_file(path, image, image_pages).empty());
    EXPECT_FALSE(write_access_file(path, map, image));
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path("")),
                            std::filesystem::directory_iterator()),
              1); // nothing half-made
}

TEST(Prefetch, BringsFirstWhatIsWantedFirstAndSaysWhenTheGuestMayStart) {
    const AccessMap map({{500, 200}, {3, 0}, {10, 0}, {300, 0}, {301, 0}});
    uint64_t clock_ns = 1'000 * ms;
    Prefetch prefetch(map, std::nullopt);
    std::vector<AccessMap::Run> order;
    std::vector<bool> ready{prefetch.ready(clock_ns)};
    prefetch.run(
        [&](const AccessMap::Run &run) {
            order.push_back(run);
            clock_ns += 1 * ms;
            ready.push_back(prefetch.ready(clock_ns));
            return true;
        },
        clock_ns);
    // 3 and 10 lie close together. In the last call, four pages had come in 3 ms: the fifth will be
    // there long before 200 ms have passed.
    EXPECT_EQ(order, (std::vector<AccessMap::Run>{{3, 8}, {300, 2}, {500, 1}}));
    EXPECT_EQ(ready, (std::vector<bool>{false, false, false, true}));
    EXPECT_EQ(prefetch.loaded(), 5u);
    EXPECT_TRUE(prefetch.ready(clock_ns));
}

TEST(Prefetch, TheWindowByHand) {
    const AccessMap map({{3, 0}, {100, 60}, {200, 120}});
    for (const uint64_t window : {0, 1, 2, 3, 99}) {
        Prefetch prefetch(map, window);
        std::vector<bool> ready;
        prefetch.run(
            [&](const AccessMap::Run &) {
                ready.push_back(prefetch.ready(1));
                return true;
            },
            1);
        EXPECT_EQ(ready, (std::vector<bool>{window <= 0, window <= 1, window <= 2}));
        EXPECT_TRUE(prefetch.ready(1));
    }
    EXPECT_TRUE(Prefetch(AccessMap(), std::nullopt).ready(1));
}

} // namespace

} // namespace hotsnap::memory
