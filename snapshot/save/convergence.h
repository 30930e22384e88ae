// SPDX-License-Identifier: GPL-2.0-or-later
//
// Judges whether the rounds of a precopy lead anywhere. Pure: figures come from the caller.
//
// They have converged when what was written during a round can be copied in a moment. They are
// hopeless when rounds follow each other without progress, which takes a bounded number of rounds:
// each that is not vain leaves a quarter less than any before.
#ifndef HOTSNAP_SAVE_CONVERGENCE_H
#define HOTSNAP_SAVE_CONVERGENCE_H

#include <cstdint>

namespace hotsnap::memory {

class Convergence {
  public:
    enum class Verdict : uint8_t { open, converged, hopeless };

    static constexpr uint64_t moment_ns = 20'000'000;
    static constexpr uint64_t few_pages = 64; // so few are copied at any rate
    static constexpr unsigned most_vain = 3;  // in a row
    static constexpr unsigned most_rounds = 30;

    // A round has copied so many pages with data in that time, and meanwhile `written` pages were
    // written. Once it is not open the verdict stays.
    Verdict round(uint64_t copied, uint64_t ns, uint64_t written);

    Verdict verdict() const { return verdict_; }
    unsigned rounds() const { return rounds_; }
    uint64_t written() const { return written_; } // during the round that decided, or the last one

  private:
    Verdict judge() const;

    double copied_ = 0; // in all rounds
    double ns_ = 0;
    uint64_t written_ = 0;
    uint64_t least_ = UINT64_MAX; // written in a round
    unsigned rounds_ = 0;
    unsigned vain_ = 0;
    Verdict verdict_ = Verdict::open;
};

} // namespace hotsnap::memory
#endif
