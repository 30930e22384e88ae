// SPDX-License-Identifier: GPL-2.0-or-later
// Notices that the machine's main loop does not beat any more: the loop waits for the bundle's
// storage, and if that has failed it takes no command, not even the one to give up.
//
// Seconds are counted, not measured: after a stop of the process, or a suspend of the host, the
// watch goes on as if no time had passed. It is part of one run, and ends with it.
#ifndef HOTSNAP_COORDINATOR_STANDSTILL_H
#define HOTSNAP_COORDINATOR_STANDSTILL_H

#include <cstdint>
#include <string>

#include "deadline.h"

namespace hotsnap::cluster {

class Standstill {
  public:
    static constexpr unsigned most_missed = 30;

    // The watch begins with the first beat: a machine that never beats is not watched.
    void beat(uint64_t now_us) {
        missed_ = 0;
        if (!ended_ && due_us_ == never) {
            due_us_ = after(now_us, second_us);
        }
    }

    static std::string reason() {
        return "The VM stood still for " + std::to_string(most_missed) +
               " s; check the storage of the bundle and of the disks";
    }

    // Returns true once when the machine stands still.
    bool tick(uint64_t now_us) {
        if (now_us < due_us_) {
            return false;
        }
        due_us_ = after(now_us, second_us);
        if (++missed_ <= most_missed) {
            return false;
        }
        end();
        return true;
    }

    // Nothing is counted until the next beat.
    void pause() {
        missed_ = 0;
        due_us_ = never;
    }

    void end() {
        ended_ = true;
        due_us_ = never;
    }

    uint64_t deadline() const { return due_us_; }

  private:
    static constexpr uint64_t second_us = 1'000'000;

    uint64_t due_us_ = never;
    unsigned missed_ = 0; // seconds since the last beat, the one under way included
    bool ended_ = false;
};

} // namespace hotsnap::cluster
#endif
