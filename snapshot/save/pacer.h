// SPDX-License-Identifier: GPL-2.0-or-later
//
// Plans the background copy so that it ends at a deadline: how long to wait before the next chunk,
// and how large that may be. Pure: time comes from the caller (nanoseconds, never falling), and so
// does the work that is left, which shrinks faster than the copier works, since write faults save
// pages too. Nothing is scheduled ahead: each step is planned anew from what is left, so an error
// of an estimate, a stall or a moved deadline changes the steps and not the end.
//
//  - The time that is not needed for work is idle time. It is spread over the data that is left,
//    so that storage sees the least rate that meets the deadline. A page that is zero costs hardly
//    any idle time, for it costs no I/O, and to have it behind makes the plan surer.
//  - Most of the work is planned to end a little before the deadline: the lead. It takes up stalls.
//  - The reserve, a few pages, is held back until just before the deadline. So traps and copy end
//    together, and the last step is too short to miss by much.
//  - When there is no idle time there is no wait.
#ifndef HOTSNAP_SAVE_PACER_H
#define HOTSNAP_SAVE_PACER_H

#include <cstdint>

namespace hotsnap::memory {

// Unsaved pages that are left, as far as one can tell.
struct PagesLeft {
    double absent = 0; // without memory: not read, but looked for
    double zero = 0;
    double data = 0;
    double present() const { return zero + data; }
};

// A part of the copy that was done.
struct ChunkDone {
    uint64_t absent = 0;
    uint64_t zero = 0; // read and found zero
    uint64_t data = 0;
    uint64_t busy_ns = 0; // waiting for storage included
};

// The upper limit of the rate, as it bears on the plan.
struct RateLimit {
    double ns_per_page = 0; // of data; 0: no limit
    uint64_t owed_ns = 0;   // until the next chunk is allowed
};

class Pacer {
  public:
    struct Step {
        uint64_t wait_ns;
        uint64_t pages;       // that are present, at most; at least 1
        bool landing = false; // little work is left: to be late now is to miss the deadline
    };

    explicit Pacer(uint64_t reserve_pages) : reserve_(static_cast<double>(reserve_pages)) {}

    // 0: none.
    void set_deadline(uint64_t deadline_ns, uint64_t now_ns);
    uint64_t deadline() const { return deadline_; }

    void done(const ChunkDone &chunk, uint64_t now_ns);

    // The limit's own wait is in the plan, but not in wait_ns.
    Step next(const PagesLeft &left, const RateLimit &limit, uint64_t now_ns);

    // When the copy will end, by the last step that was planned; 0: none was.
    uint64_t expected_end(uint64_t now_ns) const;

  private:
    // Time of a page, averaged over the last 32 MiB or so: storage that is behind shows in one
    // chunk of several.
    class Cost {
      public:
        explicit Cost(double ns) : ns_(ns * first_pages), pages_(first_pages) {}
        void add(double pages, double ns);
        double ns() const { return ns_ / pages_; }

      private:
        static constexpr double first_pages = 256; // weight of the first guess
        double ns_;
        double pages_;
    };

    double work_ns(const PagesLeft &left, const RateLimit &limit) const;
    double idle_share(const PagesLeft &left) const;

    double reserve_;
    uint64_t deadline_ = 0;
    double lead_ = 0;       // ns
    uint64_t ready_ns_ = 0; // end of the last chunk, begin of the wait
    double charge_ = 0;     // of the last chunk
    Cost absent_cost_{10};
    Cost zero_cost_{500};
    Cost data_cost_{2500};
    double last_work_ns_ = 0;
    bool planned_ = false;
};

} // namespace hotsnap::memory
#endif
