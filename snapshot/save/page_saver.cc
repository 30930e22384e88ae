// SPDX-License-Identifier: GPL-2.0-or-later
#include "save/page_saver.h"

#include "base/clock.h"
#include "base/error.h"
#include "guest/zero_page.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace hotsnap::memory {

namespace {

GroupMask first_pages(uint64_t count) {
    return static_cast<GroupMask>((uint32_t{1} << count) - 1);
}

uint64_t number_of(GroupMask mask) {
    return static_cast<uint64_t>(std::popcount(mask));
}

// Every page of the group but the wanted ones; none when there are no wanted ones at all.
GroupMask neighbors_in(const PageRun &group, const PageSaver::Wanted &wanted) {
    unsigned mask = 0;
    for (uint64_t i = 0; i < group.count && wanted.count > 0; i++) {
        mask |= (group.first + i - wanted.first < wanted.count ? 0u : 1u) << i;
    }
    return static_cast<GroupMask>(mask);
}

} // namespace

PageSaver::~PageSaver() {
    parts_.pool.release(spare_);
}

bool PageSaver::save(const PageRun &run, const std::vector<bool> &absent, Manner manner,
                     Wanted wanted) {
    for (uint64_t i = 0; i < wanted.count; i++) {
        note_access(*run.block, wanted.first + i);
    }
    if (run.block->by_unit()) {
        return save_unit(run, manner, wanted);
    }
    for (uint64_t done = 0; done < run.count; done += group_pages) {
        const uint64_t count = std::min<uint64_t>(group_pages, run.count - done);
        unsigned mask = 0;
        for (uint64_t i = 0; i < count && !absent.empty(); i++) {
            mask |= (absent[done + i] ? 1u : 0u) << i;
        }
        if (!save_group({run.block, run.first + done, count}, static_cast<GroupMask>(mask), manner,
                        wanted)) {
            return false;
        }
    }
    return true;
}

bool PageSaver::save_group(const PageRun &group, GroupMask absent, Manner manner, Wanted wanted) {
    bool needs_slot = false;
    bool needs_claim = false;
    for (uint64_t i = 0; i < group.count; i++) {
        const bool unsaved = parts_.ledger.unsaved(group.number() + i);
        needs_claim |= unsaved;
        needs_slot |=
            unsaved && ((absent >> i & 1) == 0 || parts_.ledger.replaced(group.number() + i));
    }
    if (!needs_claim) {
        return true;
    }
    if (needs_slot && !get_slots(1)) {
        return false;
    }
    const GroupMask claimed =
        parts_.ledger.claim(group.number(), static_cast<uint32_t>(group.count));
    GroupMask data = 0;
    // While anybody saves, no other thread reopens pages; so without needs_slot everything claimed
    // is absent, and has nothing in the image.
    const GroupMask present = claimed & static_cast<GroupMask>(~absent);
    if (present != 0) {
        data = copy(group, present, spare_.back());
    }
    const GroupMask not_data = claimed & static_cast<GroupMask>(~data);
    const GroupMask zeros = needs_slot ? zeros_over(group, not_data, spare_.back()) : GroupMask{0};
    const GroupMask ours = parts_.trap.confirm(group, claimed);
    if (ours != claimed) {
        parts_.ledger.cede(group.number(), claimed & static_cast<GroupMask>(~ours));
        data &= ours;
    }
    parts_.ledger.save(group.number(), ours, static_cast<GroupMask>(~data),
                       neighbors_in(group, wanted), manner);
    tally_.saved += number_of(ours);
    tally_.read += number_of(present | zeros);
    if ((data | zeros) != 0) {
        stage(group, data | zeros, spare_.back());
        spare_.pop_back();
    }
    if (read_error_) {
        std::rethrow_exception(read_error_);
    }
    return true;
}

bool PageSaver::save_unit(const PageRun &unit, Manner manner, Wanted wanted) {
    const size_t groups = (unit.count + group_pages - 1) / group_pages;
    if (!parts_.ledger.unsaved(unit.number())) {
        return true;
    }
    if (!get_slots(groups)) {
        return false;
    }
    if (!parts_.ledger.claim_unit(unit.number(), unit.count)) {
        return true;
    }
    const auto group_at = [&](size_t i) {
        const uint64_t first = i * group_pages;
        return PageRun{unit.block, unit.first + first,
                       std::min<uint64_t>(group_pages, unit.count - first)};
    };
    std::vector<GroupMask> data(groups), zeros(groups);
    for (size_t i = 0; i < groups; i++) {
        const GroupMask all = first_pages(group_at(i).count);
        data[i] = copy(group_at(i), all, spare_[i]);
        zeros[i] = zeros_over(group_at(i), all & static_cast<GroupMask>(~data[i]), spare_[i]);
    }
    // The first page of a huge page stands for all of it, hence last.
    for (size_t i = groups; i-- > 0;) {
        const PageRun group = group_at(i);
        parts_.ledger.save(group.number(), first_pages(group.count),
                           static_cast<GroupMask>(~data[i]), neighbors_in(group, wanted), manner);
    }
    tally_.saved += unit.count;
    tally_.read += unit.count;
    std::vector<Slot> unused;
    for (size_t i = 0; i < spare_.size(); i++) {
        if (i < groups && (data[i] | zeros[i]) != 0) {
            stage(group_at(i), data[i] | zeros[i], spare_[i]);
        } else {
            unused.push_back(spare_[i]);
        }
    }
    // The slots that a huge page did not need are too many to keep.
    parts_.pool.release(unused);
    spare_.clear();
    if (read_error_) {
        std::rethrow_exception(read_error_);
    }
    return true;
}

bool PageSaver::save_kernels(const PageRun &page, const std::byte *copy) {
    if (!get_slots(1)) {
        return false;
    }
    note_access(*page.block, page.first);
    if (!parts_.ledger.claim_kernels(page.number())) {
        throw Error("internal: KVM saved a page that was saved before; report this, the image was "
                    "not kept");
    }
    const GroupMask data = is_zero(copy, page_bytes) ? 0 : 1;
    if (data != 0) {
        std::memcpy(spare_.back(), copy, page_bytes);
    }
    parts_.ledger.save(page.number(), 1, static_cast<GroupMask>(~data), 0, Manner::kvm_write);
    if (data != 0) {
        stage(page, data, spare_.back());
        spare_.pop_back();
    }
    return true;
}

void PageSaver::note_access(const MemoryBlock &block, uint64_t page) {
    parts_.accesses.note(parts_.layout.page_offset(block, page) / page_bytes, now_ns());
}

bool PageSaver::get_slots(size_t count) {
    if (spare_.size() >= count) {
        return true;
    }
    std::vector<Slot> more(count - spare_.size());
    if (!parts_.pool.try_acquire(user_, more)) {
        // Slots in hand go back first: two savers that each hold some and wait for more would wait
        // forever.
        flush();
        parts_.pool.release(spare_);
        spare_.clear();
        more.resize(count);
        full_waits_.fetch_add(1, std::memory_order_relaxed);
        if (!parts_.pool.acquire(user_, more)) {
            return false;
        }
    }
    spare_.insert(spare_.end(), more.begin(), more.end());
    return true;
}

// A page that cannot be read still has to leave the Claimed state, or a thread that waits for it
// would wait forever. The page counts as zero, and the error, thrown after save(), fails the
// snapshot.
GroupMask PageSaver::copy(const PageRun &group, GroupMask mask, Slot slot) {
    try {
        return parts_.reader.copy(*group.block, group.first, mask, slot);
    } catch (...) {
        read_error_ = std::current_exception();
        return 0;
    }
}

// Zeros in the slot for the pages of `mask`, which are zero, that have other bytes in the image.
GroupMask PageSaver::zeros_over(const PageRun &group, GroupMask mask, Slot slot) {
    const GroupMask replaced = parts_.ledger.replaced(group.number(), mask);
    for (unsigned left = replaced; left != 0; left &= left - 1) {
        std::memset(slot + static_cast<unsigned>(std::countr_zero(left)) * page_bytes, 0,
                    page_bytes);
    }
    return replaced;
}

void PageSaver::stage(const PageRun &group, GroupMask pages, Slot slot) {
    staged_.push_back({slot, parts_.layout.page_offset(*group.block, group.first), pages});
    tally_.data += number_of(pages);
}

bool PageSaver::release(const PageRun &run) {
    if (run.block->by_unit()) {
        const bool saved = parts_.ledger.saved(run.number());
        if (saved) {
            parts_.trap.release(run);
        }
        return saved;
    }
    uint64_t released = 0;
    for (uint64_t i = 0; i < run.count; i++) {
        const uint64_t start = i;
        while (i < run.count && parts_.ledger.saved(run.number() + i)) {
            i++;
        }
        if (i > start) {
            parts_.trap.release({run.block, run.first + start, i - start});
            released += i - start;
        }
    }
    return released == run.count;
}

void PageSaver::flush() {
    parts_.writer.submit(staged_);
    staged_.clear();
}

void PageSaver::rest() {
    flush();
    if (!spare_.empty()) {
        parts_.pool.release(spare_);
        spare_.clear();
    }
}

} // namespace hotsnap::memory
