// SPDX-License-Identifier: GPL-2.0-or-later
// The marks of other NICs (probe.h) that have come to ours, and whether they count yet.
//
// A mark that counts says that all has come that its NIC had sent before its cut. Queues keep no
// common order, neither the sender's nor the receiver's:
//
//  - A frame may wait in one queue of its sender while a mark leaves through another. So a NIC
//    sends a mark through each of its queues, behind all that it has sent through that one, and
//    all of them must come.
//  - The network brings frames in the order in which they were sent, but the receiving tap puts
//    each flow into a queue of its own. When the mark is read from one queue, what was sent before
//    it has been read, or lies in another queue. So a mark counts once each other queue of the NIC
//    has been empty since it came.
#ifndef HOTSNAP_NETWORK_MARKS_H
#define HOTSNAP_NETWORK_MARKS_H

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

namespace hotsnap::network {

class Marks {
  public:
    using Link = std::pair<uint32_t, uint32_t>; // (own, other): NICs, by index in the table
    struct Way {
        uint32_t through, of; // the queue that the mark was sent through, of how many
        uint32_t in, among;   // the queue that it came in, among how many of ours
    };

    void clear() {
        links_.clear();
        unread_ = 0;
    }
    // Returns whether all marks of the link count now.
    bool came(Link link, Way way) {
        if (way.through >= way.of) {
            return false; // forged
        }
        std::map<uint32_t, Unread> &marks = links_[link];
        if (!marks.contains(way.through)) { // they come twice; the first tells as much
            Unread unread;
            for (uint32_t queue = 0; queue < way.among; queue++) {
                if (queue != way.in) {
                    unread.insert(queue);
                }
            }
            unread_ += !unread.empty();
            marks.emplace(way.through, std::move(unread));
        }
        return marks.size() == way.of && all_read(marks);
    }
    // Whether a mark waits for a queue to be empty.
    bool awaits_empty() const { return unread_ > 0; }
    // That queue of our NIC is empty. Calls done(link) for each link that has nothing left to wait
    // for, of the marks that have come.
    template <typename Done> void empty(uint32_t own, uint32_t queue, Done done) {
        for (auto at = links_.lower_bound({own, 0}); at != links_.end() && at->first.first == own;
             ++at) {
            bool changed = false;
            for (auto &[through, unread] : at->second) {
                if (unread.erase(queue) > 0) {
                    unread_ -= unread.empty();
                    changed = true;
                }
            }
            if (changed && all_read(at->second)) {
                done(at->first, at->second.size());
            }
        }
    }

  private:
    using Unread = std::set<uint32_t>; // queues that have not been empty since
    static bool all_read(const std::map<uint32_t, Unread> &marks) {
        return std::all_of(marks.begin(), marks.end(),
                           [](const auto &mark) { return mark.second.empty(); });
    }

    std::map<Link, std::map<uint32_t, Unread>> links_; // by the queue that a mark was sent through
    size_t unread_ = 0;                                // marks that wait
};

} // namespace hotsnap::network
#endif
