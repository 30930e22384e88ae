// SPDX-License-Identifier: GPL-2.0-or-later
#include "save/convergence.h"

#include <algorithm>

namespace hotsnap::memory {

Convergence::Verdict Convergence::round(uint64_t copied, uint64_t ns, uint64_t written) {
    if (verdict_ != Verdict::open) {
        return verdict_;
    }
    rounds_++;
    copied_ += static_cast<double>(copied);
    ns_ += static_cast<double>(ns);
    written_ = written;
    // Divided first: the product could overflow.
    const bool vain = written / 3 >= least_ / 4;
    vain_ = vain ? vain_ + 1 : 0;
    least_ = std::min(least_, written);
    verdict_ = judge();
    return verdict_;
}

Convergence::Verdict Convergence::judge() const {
    const double in_a_moment = ns_ > 0 ? copied_ * moment_ns / ns_ : 0;
    if (written_ <= few_pages || static_cast<double>(written_) <= in_a_moment) {
        return Verdict::converged;
    }
    return vain_ >= most_vain || rounds_ >= most_rounds ? Verdict::hopeless : Verdict::open;
}

} // namespace hotsnap::memory
