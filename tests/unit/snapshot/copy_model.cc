// SPDX-License-Identifier: GPL-2.0-or-later
#include "copy_model.h"

#include <algorithm>
#include <random>

namespace hotsnap::memory::test {

namespace {

constexpr uint64_t whole_chunk = 512 / CopyModel::group; // groups
constexpr uint64_t look_again_ns = 20'000'000;

class Run {
  public:
    Run(const CopyModel &model, uint64_t start)
        : model_(model), now_(start), saved_(model.groups.size()), random_(model.seed) {
        for (const Content content : model.groups) {
            count(content) += CopyModel::group;
        }
        for (uint64_t i = 0; i < model.saved_at_once; i++) {
            fault();
        }
    }

    CopyModel::Result copy() {
        size_t position = 0;
        while (unsaved_ > 0) {
            const Pacer::Step step = model_.next(left_, now_);
            if (step.wait_ns > 0) {
                const uint64_t late = model_.late_ns == 0 ? 0 : random_() % model_.late_ns;
                pass(std::min(step.wait_ns, look_again_ns) + late);
                continue;
            }
            position = copy_chunk(position, step.pages);
        }
        return result_;
    }

  private:
    double &count(Content content) {
        return content == Content::zero   ? left_.zero
               : content == Content::data ? left_.data
                                          : left_.absent;
    }

    // One chunk of the copier; returns the position after it.
    size_t copy_chunk(size_t position, uint64_t pages) {
        const uint64_t begin = now_;
        ChunkDone chunk;
        const size_t end = std::min(position + whole_chunk, saved_.size());
        const size_t first = position;
        for (; position < end; position++) {
            const Content content = model_.groups[position];
            if (saved_[position]) {
                continue;
            }
            if (content == Content::absent) {
                chunk.absent += CopyModel::group;
                save(position, true);
                continue;
            }
            if (chunk.zero + chunk.data + CopyModel::group > pages && position > first) {
                break;
            }
            if (content == Content::zero) {
                chunk.zero += CopyModel::group;
                pass(static_cast<uint64_t>(CopyModel::group * model_.zero_ns));
            } else {
                wait_for_storage();
                chunk.data += CopyModel::group;
                behind_ += CopyModel::group;
                pass(static_cast<uint64_t>(CopyModel::group * model_.page_ns));
            }
            save(position, true);
        }
        pass(10'000); // calls into the kernel
        chunk.busy_ns = now_ - begin;
        result_.chunks.push_back({begin, chunk.data});
        model_.done(chunk, now_);
        return position;
    }

    // As the staging pool: a copier that has to wait does so until a quarter is free.
    void wait_for_storage() {
        if (behind_ + CopyModel::group <= static_cast<double>(model_.staging)) {
            return;
        }
        while (behind_ > static_cast<double>(model_.staging) * 3 / 4) {
            pass(100'000);
        }
    }

    void save(size_t group, bool by_copier) {
        if (saved_[group]) {
            return;
        }
        saved_[group] = true;
        unsaved_--;
        const Content content = model_.groups[group];
        count(content) -= CopyModel::group;
        result_.last_saved = now_;
        result_.last_by_copier = by_copier;
    }

    void fault() {
        const size_t group = random_() % saved_.size();
        if (!saved_[group] && model_.groups[group] == Content::data) {
            behind_ += CopyModel::group;
        }
        save(group, false);
    }

    void pass(uint64_t ns) {
        const uint64_t end = now_ + ns;
        const bool stalled = now_ >= model_.stall_begin && now_ < model_.stall_end;
        const bool slower = model_.slower_from != 0 && now_ >= model_.slower_from;
        if (!stalled) {
            const double page = model_.storage_ns * (slower ? 2 : 1);
            behind_ = std::max(behind_ - static_cast<double>(ns) / page, 0.0);
        }
        faults_due_ += model_.faults_per_s * static_cast<double>(ns) / 1e9;
        now_ = end;
        for (; faults_due_ >= 1; faults_due_--) {
            fault();
        }
    }

    const CopyModel &model_;
    uint64_t now_;
    std::vector<bool> saved_;
    size_t unsaved_ = saved_.size();
    PagesLeft left_;
    double behind_ = 0; // pages that storage has to write
    double faults_due_ = 0;
    std::mt19937_64 random_;
    CopyModel::Result result_;
};

} // namespace

CopyModel::Result CopyModel::run(uint64_t start) const {
    return Run(*this, start).copy();
}

double CopyModel::least_ns() const {
    const auto pages = [this](Content content) {
        return static_cast<double>(std::ranges::count(groups, content)) * group;
    };
    const double slowest = std::max(page_ns, storage_ns * (slower_from != 0 ? 2 : 1));
    return pages(Content::zero) * zero_ns + pages(Content::data) * slowest;
}

} // namespace hotsnap::memory::test
