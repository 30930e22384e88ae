// SPDX-License-Identifier: GPL-2.0-or-later
#include "control.h"

#include <algorithm>
#include <vector>

namespace hotsnap::sim {

uint64_t ControlPlane::arrival(const std::string &to, uint64_t &last_us) {
    const uint64_t delay =
        random_.chance(0.1) ? random_.between(1, 3000) : random_.between(20, 300);
    last_us = std::max({last_us, events_.now_us() + delay, frozen_until_us_[to]});
    return last_us;
}

void ControlPlane::connect(const std::string &from, const std::string &to) {
    events_.after(random_.between(50, 500), [this, from, to] {
        const auto source = ends_.find(from);
        if (source == ends_.end()) {
            return;
        }
        const auto target = ends_.find(to);
        if (target == ends_.end()) {
            source->second.down(0, to, "connection refused");
            return;
        }
        const hs_link id = next_++;
        links_[id].ends[0] = from;
        links_[id].ends[1] = to;
        target->second.up(id, true, "");
        if (const auto still = ends_.find(from); still != ends_.end()) {
            still->second.up(id, false, to);
        }
    });
}

void ControlPlane::send(const std::string &from, hs_link id, std::string bytes) {
    const auto at = links_.find(id);
    if (at == links_.end()) {
        return;
    }
    Link &link = at->second;
    const int to = link.ends[0] == from ? 1 : 0;
    const uint64_t time =
        std::max(arrival(link.ends[to], link.last_us[to]), frozen_until_us_[from]);
    link.last_us[to] = time;
    events_.at(time, [this, id, to, bytes = std::move(bytes)] {
        // Look the link up for each piece: a message in it may end the link.
        for (size_t done = 0; done < bytes.size();) {
            const auto link = links_.find(id);
            if (link == links_.end() || !link->second.open[to]) {
                return;
            }
            const auto end = ends_.find(link->second.ends[to]);
            if (end == ends_.end()) {
                return;
            }
            const size_t size =
                random_.chance(0.2) ? 1 + random_.below(bytes.size() - done) : bytes.size() - done;
            end->second.bytes(id, bytes.substr(done, size));
            done += size;
        }
    });
}

void ControlPlane::close(const std::string &from, hs_link id) {
    const auto at = links_.find(id);
    if (at == links_.end()) {
        return;
    }
    Link &link = at->second;
    const int self = link.ends[0] == from ? 0 : 1, other = 1 - self;
    link.open[self] = false;
    events_.at(arrival(link.ends[other], link.last_us[other]), [this, id, other] {
        const auto link = links_.find(id);
        if (link == links_.end()) {
            return;
        }
        const bool tell = link->second.open[other];
        const std::string name = link->second.ends[other];
        links_.erase(link);
        if (const auto end = ends_.find(name); tell && end != ends_.end()) {
            end->second.down(id, "", "closed by the other side");
        }
    });
}

void ControlPlane::break_link(hs_link id, const std::string &reason, const std::string &at_once) {
    const auto at = links_.find(id);
    if (at == links_.end()) {
        return;
    }
    const Link link = at->second;
    links_.erase(at);
    for (int end = 0; end < 2; end++) { // each end learns of it at its own time
        if (!link.open[end]) {
            continue;
        }
        const std::string name = link.ends[end];
        uint64_t last = link.last_us[end];
        if (at_once.empty() ? random_.chance(0.25) : name != at_once) {
            last = std::max(last, events_.now_us() + random_.between(1000, 3'000'000));
        }
        events_.at(name == at_once ? events_.now_us() : arrival(name, last),
                   [this, id, name, reason] {
                       if (const auto there = ends_.find(name); there != ends_.end()) {
                           there->second.down(id, "", reason);
                       }
                   });
    }
}

void ControlPlane::break_one() {
    if (links_.empty()) {
        return;
    }
    auto at = links_.begin();
    std::advance(at, static_cast<std::ptrdiff_t>(random_.below(links_.size())));
    break_link(at->first, "connection reset");
}

void ControlPlane::break_all_of(const std::string &name) {
    for (const hs_link id : links_of(name)) {
        break_link(id, "connection reset", name);
    }
}

std::vector<hs_link> ControlPlane::links_of(const std::string &name) const {
    std::vector<hs_link> found;
    for (const auto &[id, link] : links_) {
        if (link.ends[0] == name || link.ends[1] == name) {
            found.push_back(id);
        }
    }
    return found;
}

void ControlPlane::detach(const std::string &name) {
    ends_.erase(name);
    for (const hs_link id : links_of(name)) {
        break_link(id, "the process is gone");
    }
}

} // namespace hotsnap::sim
