// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the two threads of a load do: lazy_loader.h says why it is right.
#include "restore/lazy_loader.h"

#include "access/access_file.h"
#include "base/clock.h"
#include "base/error.h"
#include "os/thread.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <unistd.h>

namespace hotsnap::memory {

namespace {

constexpr size_t most_damaged = 4096; // noted at a time; then the background load waits
constexpr int retry_ms = 1000;
constexpr int news_ms = 20;
constexpr uint64_t spin_ns = 20'000;

} // namespace

// --- Installing

void LazyLoader::install(const Range &range, const PageSpan &run, const std::byte *content,
                         const bool *good, Manner manner, std::optional<uint64_t> lead) {
    const std::shared_lock lock(installing_);
    if (range.forgotten) {
        return;
    }
    for (uint64_t at = 0; at < run.count; at += group_pages) {
        const uint64_t count = std::min<uint64_t>(group_pages, run.count - at);
        const uint64_t first = run.first + at;
        unsigned mask = 0;
        unsigned neighbors = 0;
        for (uint64_t i = 0; i < count; i++) {
            if ((good == nullptr || good[at + i]) &&
                ledger_->claim(range.number(first + i), 1) != 0) {
                mask |= 1u << i;
                neighbors |= lead && *lead != first + i ? 1u << i : 0;
            }
        }
        for (uint64_t i = 0; i < count;) {
            uint64_t end = i;
            while (end < count && (mask >> end & 1) != 0) {
                end++;
            }
            if (end > i) {
                const uint64_t bytes = (end - i) * page_bytes;
                const auto outcome = content == nullptr
                                         ? trap_->install_zeros(range.address_of(first + i), bytes)
                                         : trap_->install(range.address_of(first + i),
                                                          {content + (at + i) * page_bytes, bytes});
                must_be_installed(range, first + i, outcome);
            }
            i = std::max(end, i + 1);
        }
        if (mask != 0) {
            ledger_->save(range.number(first), static_cast<GroupMask>(mask),
                          content == nullptr ? static_cast<GroupMask>(mask) : GroupMask{0},
                          static_cast<GroupMask>(neighbors), manner);
        }
    }
    forget_damage(range, run);
}

bool LazyLoader::all_present(const Range &range, const PageSpan &run) const {
    for (uint64_t i = 0; i < run.count; i++) {
        if (!ledger_->saved(range.number(run.first + i))) {
            return false;
        }
    }
    return true;
}

uint64_t LazyLoader::remaining() const {
    return ledger_ ? ledger_->pages() - ledger_->saved_pages() - forgotten_ : 0;
}

// --- Faults

LazyLoader::Range *LazyLoader::range_of(uint64_t address) {
    const auto next = std::ranges::upper_bound(ranges_, address, {}, &Range::address);
    if (next == ranges_.begin()) {
        return nullptr;
    }
    Range &range = *std::prev(next);
    return address - range.address() < range.bytes() ? &range : nullptr;
}

void LazyLoader::serve_faults() {
    ask_for_priority();
    std::array<MissingTrap::Fault, 64> faults;
    std::vector<Waiting> waiting; // for pages that could not be loaded
    uint64_t idle_since = now_ns();
    uint64_t tried_ns = 0;
    while (!ending_) {
        const size_t count = trap_->next_faults(faults);
        const uint64_t begin = now_ns();
        for (size_t i = 0; i < count; i++) {
            Range *range = range_of(faults[i].address);
            if (range == nullptr) {
                continue; // cannot be: only ranges are trapped
            }
            const uint64_t page =
                (faults[i].address - reinterpret_cast<uint64_t>(range->block_host)) / page_bytes;
            const Waiting each{{range, page}, faults[i].tid};
            if (serve(each)) {
                counts_.add(ns_to_us(now_ns() - begin));
            } else {
                waiting.push_back(each);
            }
        }
        if (try_again_.exchange(false) ||
            (!waiting.empty() && begin - tried_ns > uint64_t{retry_ms} * 1'000'000)) {
            std::erase_if(waiting, [this](const Waiting &each) { return serve(each); });
            tried_ns = now_ns();
        }
        devices_waiting_ =
            static_cast<uint64_t>(std::ranges::count_if(waiting, [this](const Waiting &each) {
                return manner_of(each.tid) == Manner::dma_write;
            }));
        if (count > 0) {
            idle_since = now_ns();
        } else if (now_ns() - idle_since > spin_ns) {
            trap_->wait(waiting.empty() ? -1 : retry_ms);
            idle_since = now_ns();
        } else {
            relax_cpu();
        }
    }
}

// False when the page cannot be loaded.
bool LazyLoader::serve(const Waiting &waiting) {
    const Range &range = *waiting.place.range;
    const uint64_t page = waiting.place.page;
    const uint64_t number = range.number(page);
    if (ledger_->saved(number)) {
        trap_->wake_waiters(reinterpret_cast<uint64_t>(range.host(page)), page_bytes);
        return true;
    }
    accesses_.note(range.file_offset(page) / page_bytes, now_ns());
    const uint64_t group = page / group_pages * group_pages;
    const uint64_t first = std::max(group, range.span.first);
    const uint64_t end = std::min(group + group_pages, range.span.first + range.span.count);
    const PageSpan run = run_around(*range.image, page, {first, end - first});
    const Manner manner = manner_of(waiting.tid);
    if (range.unit > 1) {
        return load_unit(range, page, demand_buffer_.bytes(), manner, true);
    }
    if (!range.image->stored(page)) {
        install(range, run, nullptr, nullptr, manner, page);
        return true;
    }
    std::array<bool, group_pages> good{};
    const auto content = demand_buffer_.bytes().first(run.count * page_bytes);
    const std::string why =
        file_.read_pages(range.file_offset(run.first), content, std::span(good).first(run.count),
                         VerifiedFile::Order::random);
    bytes_read_.fetch_add(content.size(), std::memory_order_relaxed);
    install(range, run, content.data(), good.data(), manner, page);
    if (!good[page - run.first] && !ledger_->saved(number)) {
        note_damage(range, page, why);
        return false;
    }
    return true;
}

// As in save/fault_service.cc: KVM may hand a guest's fault to a worker of the kernel.
Manner LazyLoader::manner_of(int tid) const {
    const bool guest = std::ranges::binary_search(options_.vcpu_tids, tid) ||
                       (tid != 0 && tgkill(getpid(), tid, 0) != 0);
    return guest ? Manner::guest_write : Manner::dma_write;
}

// --- The background load

void LazyLoader::load_all() {
    {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return attached_ || ending_; });
    }
    if (!attached_) {
        return; // given up before anything was absent
    }
    give_way();
    load_working_set();
    load_ranges();
    while (remaining() > 0) {
        heed();
        wait_for_news();
        load_damaged();
    }
    complete();
}

// At full rate: the guest is about to ask for these pages, and faults are not limited either.
// Damage is noted, and dealt with afterwards.
void LazyLoader::load_working_set() {
    prefetch_.run(
        [this](const AccessMap::Run &run) {
            const bool go_on = load_image_run(run) && damaged_count_ < most_damaged;
            heed();
            return go_on;
        },
        now_ns());
}

// Loads what is trapped of these pages of the image. False when nothing is absent any more.
bool LazyLoader::load_image_run(const AccessMap::Run &run) {
    const auto file_page = [](const Range *r) {
        return r->file_offset(r->span.first) / page_bytes;
    };
    const uint64_t end = run.first + run.count;
    auto next = std::ranges::upper_bound(in_file_, run.first, {}, file_page);
    if (next != in_file_.begin()) {
        --next;
    }
    for (; next != in_file_.end() && file_page(*next) < end; ++next) {
        const Range &range = **next;
        const uint64_t begins = file_page(&range);
        const uint64_t first = std::max(run.first, begins);
        const uint64_t last = std::min(end, begins + range.span.count);
        if (first < last) {
            each_run(*range.image, {range.span.first + first - begins, last - first}, load_pages,
                     [&](const PageSpan &pages, bool stored) {
                         load_run(range, pages, stored);
                         return true;
                     });
        }
    }
    return remaining() > 0;
}

// The next restore of this image loads first what this one had to wait for. Pages that came before
// anybody touched them say nothing.
void LazyLoader::learn() {
    if (options_.access_path.empty()) {
        return;
    }
    AccessMap map = prefetch_.map();
    if (map.merge(accesses_.accesses())) {
        write_access_file(options_.access_path, map, options_.sums_xxh3);
    }
}

void LazyLoader::load_ranges() {
    for (const Range *range : in_file_) {
        each_run(*range->image, range->span, load_pages, [&](const PageSpan &run, bool stored) {
            while (damaged_count_ >= most_damaged) {
                heed();
                wait_for_news();
                load_damaged();
            }
            spend(load_run(*range, run, stored));
            heed();
            return true;
        });
    }
}

uint64_t LazyLoader::load_run(const Range &range, const PageSpan &run, bool stored) {
    if (all_present(range, run)) {
        return 0;
    }
    if (range.unit > 1) {
        return load_units(range, run);
    }
    if (!stored) {
        install(range, run, nullptr, nullptr, Manner::background, std::nullopt);
        return 0;
    }
    std::array<bool, load_pages> good{};
    const auto content = load_buffer_.bytes().first(run.count * page_bytes);
    const std::string why =
        file_.read_pages(range.file_offset(run.first), content, std::span(good).first(run.count),
                         VerifiedFile::Order::sequential);
    bytes_read_.fetch_add(content.size(), std::memory_order_relaxed);
    install(range, run, content.data(), good.data(), Manner::background, std::nullopt);
    for (uint64_t i = 0; i < run.count; i++) {
        if (!good[i] && !ledger_->saved(range.number(run.first + i))) {
            note_damage(range, run.first + i, why);
        }
    }
    return content.size();
}

uint64_t LazyLoader::load_units(const Range &range, const PageSpan &run) {
    const uint64_t before = bytes_read_;
    for (uint64_t page = run.first; page < run.first + run.count;
         page = (page / range.unit + 1) * range.unit) {
        load_unit(range, page, load_buffer_.bytes(), Manner::background, false);
    }
    return bytes_read_ - before; // with those of faults meanwhile, which is little
}

// Loads a huge page. It is there as a whole or not at all, so one damaged page keeps all of it
// away. False when it cannot be loaded. `lead`: `page` was touched.
bool LazyLoader::load_unit(const Range &range, uint64_t page, std::span<std::byte> buffer,
                           Manner manner, bool lead) {
    const uint64_t first = page / range.unit * range.unit;
    const uint64_t count = std::min(range.unit, range.image->pages() - first);
    if (ledger_->saved(range.number(first))) {
        return true;
    }
    const auto content = buffer.first(range.unit * page_bytes);
    std::ranges::fill(content, std::byte{0});
    std::array<bool, load_pages> good{};
    const bool whole =
        each_run(*range.image, {first, count}, load_pages, [&](const PageSpan &run, bool stored) {
            if (!stored) {
                return true;
            }
            const std::string why = file_.read_pages(
                range.file_offset(run.first),
                content.subspan((run.first - first) * page_bytes, run.count * page_bytes),
                std::span(good).first(run.count), VerifiedFile::Order::sequential);
            bytes_read_.fetch_add(run.count * page_bytes, std::memory_order_relaxed);
            const auto bad = std::find(good.begin(), good.begin() + run.count, false);
            if (bad != good.begin() + run.count) {
                note_damage(range, run.first + static_cast<uint64_t>(bad - good.begin()), why);
                return false;
            }
            return true;
        });
    if (!whole) {
        return ledger_->saved(range.number(first)); // another thread has read it well
    }
    {
        const std::shared_lock lock(installing_);
        if (range.forgotten || !ledger_->claim_unit(range.number(first), count)) {
            return true;
        }
        must_be_installed(range, first, trap_->install(range.address_of(first), content));
        save_unit(range, {first, count}, manner, lead ? std::optional(page) : std::nullopt);
    }
    forget_damage(range, {first, count});
    return true;
}

// The first page of a huge page stands for all of it, hence last.
void LazyLoader::save_unit(const Range &range, const PageSpan &unit, Manner manner,
                           std::optional<uint64_t> lead) {
    for (uint64_t at = (unit.count - 1) / group_pages * group_pages;; at -= group_pages) {
        const uint64_t count = std::min<uint64_t>(group_pages, unit.count - at);
        unsigned zero = 0;
        unsigned neighbors = 0;
        for (uint64_t i = 0; i < count; i++) {
            zero |= range.image->stored(unit.first + at + i) ? 0u : 1u << i;
            neighbors |= lead && *lead != unit.first + at + i ? 1u << i : 0u;
        }
        ledger_->save(range.number(unit.first + at), static_cast<GroupMask>((1u << count) - 1),
                      static_cast<GroupMask>(zero), static_cast<GroupMask>(neighbors), manner);
        if (at == 0) {
            return;
        }
    }
}

void LazyLoader::must_be_installed(const Range &range, uint64_t page,
                                   MissingTrap::Outcome outcome) {
    if (outcome == MissingTrap::Outcome::occupied && range.unit > 1) {
        // The kernel says the same of both (hugetlb_mfill_atomic_pte). What was dropped is free for
        // other programs.
        throw Error(
            "huge page at offset " + std::to_string(page * page_bytes) +
            " of guest memory block \"" + range.image->idstr +
            "\" cannot be loaded: the host has no free huge page for it any more, or it had "
            "content before; reserve more huge pages and restore again");
    }
    if (outcome != MissingTrap::Outcome::installed) {
        throw Error("guest memory block \"" + range.image->idstr + "\" at offset " +
                    std::to_string(page * page_bytes) +
                    (outcome == MissingTrap::Outcome::occupied
                         ? " had content before it was loaded: this is a bug"
                         : " was taken away while it was loaded: this is a bug"));
    }
}

void LazyLoader::load_damaged() {
    std::vector<Place> places;
    {
        const std::lock_guard lock(mutex_);
        for (const auto &[number, damage] : damaged_) {
            places.push_back(damage.place);
        }
    }
    for (const Place &place : places) {
        load_run(*place.range, {place.page, 1}, place.range->image->stored(place.page));
    }
}

// Some pages are absent: hs-demand is about to install them, or they are damaged.
void LazyLoader::wait_for_news() {
    std::unique_lock lock(mutex_);
    const auto most = std::chrono::milliseconds(damaged_.empty() ? 1 : retry_ms);
    const uint64_t tries = tries_;
    changed_.wait_for(lock, most, [&] { return news() || tries_ != tries || remaining() == 0; });
}

bool LazyLoader::news() const {
    return !told_ && (damage_now() != nullptr || !fatal_.empty());
}

// Does what other threads have asked for, between two steps.
void LazyLoader::heed() {
    bool again = false;
    {
        const std::lock_guard lock(mutex_);
        again = tries_heeded_ != tries_;
        tries_heeded_ = tries_;
    }
    if (again) {
        load_damaged();
        const std::lock_guard lock(mutex_);
        told_ = false;
    }
    tell_failure();
}

void LazyLoader::spend(uint64_t bytes) {
    std::unique_lock lock(mutex_);
    bucket_.spend(bytes, now_ns());
    while (const uint64_t wait = bucket_.wait_ns(now_ns())) {
        changed_.wait_for(lock, std::chrono::nanoseconds(
                                    std::min<uint64_t>(wait, uint64_t{news_ms} * 1'000'000)));
        if (tries_heeded_ != tries_ || news() || remaining() == 0) {
            return; // heed() comes next; the debt is kept
        }
    }
}

void LazyLoader::complete() {
    if (const auto wrong = forgotten_ == 0 ? ledger_->disproof() : std::nullopt) {
        throw Error("guest memory was not loaded page by page: " + *wrong + ": this is a bug");
    }
    {
        const std::lock_guard installing(installing_);
        for (const Range &range : ranges_) {
            if (!range.forgotten) {
                trap_->release(range.address(), range.bytes());
            }
        }
    }
    ending_ = true;
    trap_->wake();
    demand_.join();
    ended_ns_ = now_ns();
    learn();
    {
        const std::lock_guard lock(mutex_);
        complete_ = true;
    }
    changed_.notify_all();
    options_.on_complete();
}

// --- Damage

void LazyLoader::note_damage(const Range &range, uint64_t page, const std::string &why) {
    const std::shared_lock installing(installing_);
    if (range.forgotten) {
        return;
    }
    const std::lock_guard lock(mutex_);
    if (ledger_->saved(range.number(page))) {
        return; // another thread has read it well
    }
    damaged_.insert_or_assign(range.number(page), Damage{{&range, page}, why});
    damaged_count_ = damaged_.size();
    changed_.notify_all();
}

void LazyLoader::forget_damage(const Range &range, const PageSpan &run) {
    if (damaged_count_ == 0) {
        return;
    }
    const std::lock_guard lock(mutex_);
    for (uint64_t i = 0; i < run.count; i++) {
        const uint64_t number = range.number(run.first + i);
        if (ledger_->saved(number)) {
            damaged_.erase(number);
        }
    }
    damaged_count_ = damaged_.size();
}

void LazyLoader::fail_for_good(const std::string &why) {
    const std::lock_guard lock(mutex_);
    fatal_ = why;
    changed_.notify_all();
}

void LazyLoader::tell_failure() {
    std::optional<Failure> failure;
    {
        const std::lock_guard lock(mutex_);
        failure = told_ ? std::nullopt : failure_now();
        told_ = told_ || failure;
    }
    if (failure) {
        options_.on_failed(failure->message);
    }
}

// A page that was claimed meanwhile is good: hs-demand is about to install it, and to erase it
// here.
const LazyLoader::Damage *LazyLoader::damage_now() const {
    const auto found = std::ranges::find_if(damaged_, [this](const auto &entry) {
        const auto &[range, page] = entry.second.place;
        return ledger_->unsaved(range->number(page / range->unit * range->unit));
    });
    return found == damaged_.end() ? nullptr : &found->second;
}

std::optional<LazyLoader::Failure> LazyLoader::failure_now() const {
    if (!fatal_.empty()) {
        return Failure{fatal_, "", 0, 0};
    }
    const Damage *damage = damage_now();
    if (damage == nullptr) {
        return std::nullopt;
    }
    const auto &[place, why] = *damage;
    Failure failure{"", place.range->image->idstr, place.page * page_bytes,
                    place.range->file_offset(place.page)};
    failure.message = "cannot load the page at offset " + std::to_string(failure.block_offset) +
                      " of memory block \"" + failure.block + "\": " + file_.path() +
                      " at offset " + std::to_string(failure.file_offset) + ": " + why +
                      "; mend the file in its place and continue, or restore another snapshot";
    return failure;
}

} // namespace hotsnap::memory
