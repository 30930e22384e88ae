// SPDX-License-Identifier: GPL-2.0-or-later
// Randomness that a seed reproduces on every machine (no <random> distributions).
#ifndef HOTSNAP_SIM_RANDOM_H
#define HOTSNAP_SIM_RANDOM_H

#include <cstdint>

namespace hotsnap::sim {

class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed) {}

    uint64_t next() { // splitmix64
        uint64_t z = (state_ += 0x9e37'79b9'7f4a'7c15);
        z = (z ^ z >> 30) * 0xbf58'476d'1ce4'e5b9;
        z = (z ^ z >> 27) * 0x94d0'49bb'1331'11eb;
        return z ^ z >> 31;
    }
    uint64_t below(uint64_t n) { return n == 0 ? 0 : next() % n; }
    uint64_t between(uint64_t least, uint64_t most) { return least + below(most - least + 1); }
    bool chance(double p) { return static_cast<double>(next() >> 11) * 0x1p-53 < p; }
    // A generator of its own, so that one part's draws do not shift another's.
    Random fork() { return Random(next()); }

  private:
    uint64_t state_;
};

} // namespace hotsnap::sim
#endif
