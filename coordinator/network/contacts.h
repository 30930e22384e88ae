// SPDX-License-Identifier: GPL-2.0-or-later
// To which members this one's guest spoke first after its cut, and when: a restored guest will do
// the same. (HotRestore, LISA '14, 4: communication-induced dependence.)
//
// Memory is taken before the cut; noting a frame takes none. Times are of the caller's clock. A
// time that is rounded, or that a clock set back makes shorter, is too early, which is the safe
// side (docs/internals/restore-line.md).
#ifndef HOTSNAP_NETWORK_CONTACTS_H
#define HOTSNAP_NETWORK_CONTACTS_H

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace hotsnap::network {

// Of one member. All contacts before `until_us` are listed, and none of a later time.
struct ContactRecord {
    struct First {
        uint32_t member = 0; // index into the member table
        uint64_t us = 0;     // since the guest runs again
        bool operator==(const First &) const = default;
    };
    uint64_t until_us = 0;
    std::vector<First> first; // by time

    bool operator==(const ContactRecord &) const = default;
};

class Contacts {
  public:
    // Later ones order no restore: a restored member runs for longer than others load.
    static constexpr int64_t longest_ns = 5'000'000'000;

    // Room for that many members; what was noted before is forgotten.
    void prepare(size_t members) {
        on_ = known_ = false;
        first_us_.assign(members, never);
    }
    void begin(int64_t now_ns) {
        began_ns_ = now_ns;
        on_ = known_ = !first_us_.empty();
    }
    void end() { on_ = known_ = false; }

    bool on() const { return on_; }
    void note(uint32_t member, int64_t now_ns) {
        const int64_t since_ns = since(now_ns);
        if (since_ns >= longest_ns) {
            on_ = false;
            return;
        }
        uint32_t &first = first_us_[member];
        first = std::min(first, static_cast<uint32_t>(since_ns / 1000));
    }

    // None unless begun. Of more than `most` contacts the record has the first, and ends with them.
    std::optional<ContactRecord> record(size_t most, int64_t now_ns) const {
        if (!known_) {
            return std::nullopt;
        }
        ContactRecord record;
        record.until_us = static_cast<uint64_t>(std::min(since(now_ns), longest_ns)) / 1000;
        for (uint32_t member = 0; member < first_us_.size(); member++) {
            if (first_us_[member] < record.until_us) {
                record.first.push_back({member, first_us_[member]});
            }
        }
        std::sort(record.first.begin(), record.first.end(), [](const auto &a, const auto &b) {
            return std::pair(a.us, a.member) < std::pair(b.us, b.member);
        });
        if (record.first.size() > most) {
            record.until_us = record.first[most].us;
            std::erase_if(record.first, [&](const auto &c) { return c.us >= record.until_us; });
        }
        return record;
    }

  private:
    static constexpr uint32_t never = UINT32_MAX;

    int64_t since(int64_t now_ns) const { return std::max<int64_t>(now_ns - began_ns_, 0); }

    std::vector<uint32_t> first_us_; // by member
    int64_t began_ns_ = 0;
    bool on_ = false;    // frames are to be noted
    bool known_ = false; // begun, and not ended
};

} // namespace hotsnap::network
#endif
