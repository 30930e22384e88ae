// SPDX-License-Identifier: GPL-2.0-or-later
#include "cluster.h"

#include <algorithm>

namespace hotsnap::sim {

namespace {

// The seed chooses the parameters that the user left open.
Config complete(Config config, Random &random) {
    if (config.members == 0) {
        config.members = random.between(2, 8);
    }
    if (config.commands == 0) {
        config.commands = random.between(3, 8);
    }
    if (random.chance(0.3)) {
        config.loss = 0.02;
    }
    if (random.chance(0.2)) { // slow network
        config.transit_us = 40'000;
        config.settle_us = 50'000;
        config.drain_us = 100'000;
    } else if (random.chance(0.2)) { // no time to settle, hardly any to drain
        config.settle_us = 0;
        config.drain_us = 500;
    }
    return config;
}

} // namespace

Cluster::Cluster(const Config &config)
    : random_(config.seed), traffic_random_(random_.fork()),
      network_(config_, events_, ledger_, random_.fork()), control_(events_, random_.fork()) {
    config_ = complete(config, random_);
    build();
}

void Cluster::build() {
    constexpr uint8_t first_octets[] = {0x52, 0x02, 0xfe, 0x00};
    constexpr size_t vnet_sizes[] = {12, 12, 10, 0};
    for (size_t i = 0; i < config_.members; i++) {
        Home home{"m" + std::to_string(i), {}};
        const size_t nics = random_.chance(0.2) ? 2 : 1;
        for (size_t n = 0; n < nics; n++) {
            const uint64_t octet = first_octets[random_.below(4)];
            const Mac mac(octet << 40 | uint64_t{0x5400} << 24 | i << 4 | n);
            const size_t vnet = vnet_sizes[random_.below(4)];
            home.nics.push_back({mac, vnet, network_.add_port(mac, vnet > 0)});
            ledger_.owner_of_mac[mac.value()] = home.name;
        }
        homes_.push_back(std::move(home));
    }
    members_.resize(homes_.size());
    for (size_t i = 0; i < homes_.size(); i++) {
        boot(i);
    }
}

void Cluster::boot(size_t index) {
    const Home &home = homes_[index];
    members_[index] = std::make_shared<Member>(
        Member::World{config_, events_, ledger_, network_, control_, on_complete_, on_state_},
        home.name, next_incarnation_++, home.nics, random_.fork());
    members_[index]->start();
}

void Cluster::run() {
    for (size_t i = 0; i < config_.commands; i++) {
        command();
    }
    command_++;
    settle(60'000'000);
    for (const auto &member : members_) {
        if (const std::string why = member->alive() ? member->why_not_idle() : ""; !why.empty()) {
            ledger_.not_idle.push_back(member->name() + ": " + why);
        }
    }
}

bool Cluster::idle() const {
    return std::all_of(members_.begin(), members_.end(), [](const auto &member) {
        return !member->alive() || member->why_not_idle().empty();
    });
}

void Cluster::settle(uint64_t most_us) {
    const uint64_t end = events_.now_us() + most_us;
    while (!idle() && events_.now_us() < end) {
        events_.run_until(events_.now_us() + 100'000);
    }
    events_.run_until(events_.now_us() + 2 * config_.transit_us); // frames under way arrive
}

size_t Cluster::pick_alive() {
    std::vector<size_t> alive;
    for (size_t i = 0; i < members_.size(); i++) {
        if (members_[i]->alive()) {
            alive.push_back(i);
        }
    }
    return alive[random_.below(alive.size())];
}

void Cluster::command() {
    command_++; // cancels the faults planned for the command before
    on_complete_ = nullptr;
    on_state_ = nullptr;
    talking_ = true;
    traffic();
    events_.run_until(events_.now_us() + random_.between(1000, 20'000));
    const bool restore = give_command(pick_alive());
    if (config_.faults && random_.chance(0.7)) { // without a fault, some command must succeed
        if (random_.chance(0.4)) {
            plan_fault();
        } else {
            plan_fault_in_a_state(restore);
        }
    }
    if (config_.faults && random_.chance(0.3)) {
        plan_stalls();
    }
    const uint64_t quiet_at = events_.now_us() + 800'000;
    while (events_.now_us() < quiet_at && !idle()) {
        events_.run_until(events_.now_us() + 5000);
    }
    talking_ = false;
    if (random_.chance(0.8)) { // else the next command may come while this one is on
        settle(20'000'000);
    }
    for (size_t i = 0; i < members_.size(); i++) {
        if (!members_[i]->alive() && random_.chance(0.7)) {
            boot(i);
        }
        members_[i]->set_failure_chance(0);
    }
    if (std::none_of(members_.begin(), members_.end(),
                     [](const auto &member) { return member->alive(); })) {
        boot(0);
    }
}

bool Cluster::give_command(size_t leader) {
    const bool all = random_.chance(0.7);
    Json targets = Json::array();
    for (size_t i = 0; i < homes_.size(); i++) {
        if (i == leader ? random_.chance(0.5) : all || random_.chance(0.5)) {
            targets.push_back({{"name", homes_[i].name}, {"address", homes_[i].name}});
        }
    }
    const bool restore = random_.chance(0.15);
    Json request = {{"members", targets},
                    {"coloring", config_.mutation != Mutation::coloring_off},
                    {"settle_us", config_.settle_us},
                    {"drain_us", config_.drain_us},
                    {"heartbeat_us", 100'000},
                    {"silence_timeout_us", 1'500'000},
                    {"prepare_timeout_us", 3'000'000},
                    {"arm_timeout_us", 2'000'000},
                    {"cut_timeout_us", 2'000'000},
                    {"start_timeout_us", 2'000'000},
                    {"abort_timeout_us", 2'000'000}};
    if (restore) {
        request["bundle"] = "/bundles/t";
    } else {
        request["tag"] = "t" + std::to_string(tags_++);
        request["directory"] = "/bundles";
    }
    members_[leader]->initiate(restore, to_text(request));
    return restore;
}

void Cluster::plan_fault() {
    const uint64_t when = random_.chance(0.5) ? random_.below(30'000) : random_.below(300'000);
    const uint64_t kind = random_.below(8);
    const size_t victim = pick_alive();
    if (kind == 0) { // each step of each member may fail
        for (const auto &member : members_) {
            member->set_failure_chance(0.3 / static_cast<double>(members_.size()));
        }
        return;
    }
    if (kind >= 6) { // the first member that completes its part is cut off, or dies, soon after
        on_complete_ = [this, kind](Member &member) {
            on_complete_ = nullptr;
            const auto name = member.name();
            events_.after(random_.between(300, 5000), [this, kind, name] {
                if (kind == 6) {
                    control_.break_all_of(name);
                    return;
                }
                for (const auto &one : members_) {
                    if (one->alive() && one->name() == name) {
                        one->crash();
                    }
                }
            });
        };
        return;
    }
    events_.after(when, [this, kind, victim, command = command_] {
        const auto &member = members_[victim];
        if (command != command_ || !member->alive()) {
            return;
        }
        switch (kind) {
        case 1:
            member->crash();
            return;
        case 2:
            control_.break_one();
            return;
        case 3:
            cancel();
            return;
        case 4: // two initiators, or a second command to one initiator
            give_command(victim);
            return;
        default:
            control_.freeze(member->name(), events_.now_us() + random_.between(100'000, 4'000'000));
            return;
        }
    });
}

void Cluster::cancel() {
    for (const auto &member : members_) {
        if (member->alive() && member->leads()) {
            member->cancel();
        }
    }
}

// The first member that reaches a chosen state meets a fault there.
void Cluster::plan_fault_in_a_state(bool restore) {
    using member::State;
    enum class Kind : uint8_t { failure, crash, cancel, broken_links, stall };
    const auto first = static_cast<uint64_t>(restore ? State::loading : State::beginning);
    const auto last = static_cast<uint64_t>(restore ? State::load_failed : State::undoing);
    const auto where = static_cast<State>(random_.between(first, last));
    // Other faults reach each state in other ways, too; a crash hardly does.
    constexpr Kind kinds[] = {Kind::failure, Kind::failure, Kind::crash, Kind::crash,
                              Kind::crash,   Kind::cancel,  Kind::stall, Kind::broken_links};
    const Kind kind = kinds[random_.below(std::size(kinds))];
    const uint64_t delay_us = random_.chance(0.5) ? 0 : random_.below(1000);
    if (where == State::failed || where == State::load_failed) {
        for (const auto &member : members_) {
            member->set_failure_chance(0.3);
        }
    }
    if (where == State::ending || where == State::undoing) {
        events_.after(random_.below(60'000), [this] { cancel(); });
    }
    on_state_ = [this, where, kind, delay_us](Member &member, State state) {
        if (state != where) {
            return;
        }
        on_state_ = nullptr;
        if (kind == Kind::failure) { // of this step, and of later ones
            member.set_failure_chance(0.7);
            return;
        }
        events_.after(delay_us, [this, kind, name = member.name()] {
            if (kind == Kind::cancel) {
                cancel();
            }
            for (const auto &member : members_) {
                if (!member->alive()) {
                    continue;
                }
                if (kind == Kind::crash && member->name() == name) {
                    member->crash();
                } else if (kind == Kind::broken_links && member->name() == name) {
                    control_.break_all_of(name);
                } else if (kind == Kind::stall && member->name() == name) {
                    member->stall(5000);
                }
            }
        });
    };
}

// Main loops stand still for a while, and forged red frames come although no member was cut.
void Cluster::plan_stalls() {
    const size_t count = random_.between(1, 10);
    for (size_t i = 0; i < count; i++) {
        const uint64_t length_us = random_.chance(0.02)  ? random_.between(1'000'000, 40'000'000)
                                   : random_.chance(0.2) ? random_.between(10'000, 200'000)
                                                         : random_.between(100, 3000);
        const size_t victim = random_.below(members_.size());
        const size_t other = random_.below(homes_.size());
        const bool forged = random_.chance(0.3);
        events_.after(random_.below(60'000),
                      [this, victim, other, forged, length_us, command = command_] {
                          const auto &member = members_[victim];
                          if (command != command_ || !member->alive()) {
                              return;
                          }
                          if (forged && other != victim) {
                              member->receive_forged(homes_[other].nics[0].mac);
                          } else {
                              member->stall(length_us);
                          }
                      });
    }
}

void Cluster::traffic() {
    if (!talking_) {
        return;
    }
    send_one();
    events_.after(traffic_random_.below(2000 / config_.frames_per_ms + 1), [this] { traffic(); });
}

void Cluster::send_one() {
    const auto &member = members_[traffic_random_.below(members_.size())];
    const size_t nic = traffic_random_.below(member->nics().size());
    // A broadcast is a frame for each member: in a large cluster they would fill the network.
    if (traffic_random_.chance(std::min(0.05, 0.4 / static_cast<double>(members_.size())))) {
        member->guest_sends(nic, Mac(0xffff'ffff'ffff), 1);
        return;
    }
    const Home &other = homes_[traffic_random_.below(homes_.size())];
    const Nic &to = other.nics[traffic_random_.below(other.nics.size())];
    if (to.mac != member->nics()[nic].mac) {
        member->guest_sends(nic, to.mac,
                            traffic_random_.chance(0.2) ? traffic_random_.between(2, 5) : 1);
    }
}

} // namespace hotsnap::sim
