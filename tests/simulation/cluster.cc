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

// One switch; or two or three in a row, between which members forward.
void Cluster::build() {
    size_t switches = random_.chance(0.6) ? 1 : random_.chance(0.6) ? 2 : 3;
    switches = std::min(switches, config_.members - 1);
    for (size_t i = 0; i + 1 < switches; i++) {
        add_home({i, i + 1}, true);
    }
    while (homes_.size() < config_.members) {
        const size_t at = random_.below(switches);
        add_home(random_.chance(0.2) ? std::vector<size_t>{at, at} : std::vector<size_t>{at},
                 false);
    }
    place_stations(switches);
    members_.resize(homes_.size());
    for (size_t i = 0; i < homes_.size(); i++) {
        boot(i);
    }
}

void Cluster::add_home(std::vector<size_t> switches, bool forwards) {
    constexpr uint8_t first_octets[] = {0x52, 0x02, 0xfe, 0x00};
    constexpr size_t vnet_sizes[] = {12, 12, 10, 0};
    const size_t i = homes_.size();
    Home home{"m" + std::to_string(i), {}, forwards};
    for (size_t n = 0; n < switches.size(); n++) {
        const uint64_t octet = first_octets[random_.below(4)];
        const Mac mac(octet << 40 | uint64_t{0x5400} << 24 | i << 4 | n);
        // A switch forwards what it gets: offload on both sides, or on none.
        const size_t vnet =
            forwards && n > 0 ? home.nics[0].vnet_size : vnet_sizes[random_.below(4)];
        const Network::Port port = network_.add_port(home.name, switches[n], mac, vnet > 0);
        home.nics.push_back({mac, vnet, port, {}, switches[n]});
    }
    homes_.push_back(std::move(home));
}

// Guests send and receive for others, too; now and then two for the same.
void Cluster::place_stations(size_t switches) {
    for (size_t i = 0; i < homes_.size(); i++) {
        Home &home = homes_[i];
        Nic &nic = home.nics[0];
        for (uint64_t s = 0; !home.forwards && s < 2 && random_.chance(0.5); s++) {
            const Mac station(uint64_t{0x52} << 40 | uint64_t{0xee00} << 24 | i << 4 | s);
            for (Home &other : homes_) {
                const bool shares = &other != &home && random_.chance(0.1);
                if (&other == &home ||
                    (shares && other.nics[0].a_switch == nic.a_switch && !other.forwards)) {
                    other.nics[0].stations.push_back(station);
                    network_.add_station(other.nics[0].port, station);
                }
            }
        }
    }
    // The switches in front of a forwarder find all behind it there.
    for (size_t i = 0; i + 1 < switches; i++) {
        for (const Home &other : homes_) {
            for (const Nic &nic : other.nics) {
                const size_t side = nic.a_switch > i ? 0 : 1;
                if (nic.port == homes_[i].nics[1 - side].port) {
                    continue; // it is the forwarder's own on that side
                }
                network_.add_station(homes_[i].nics[side].port, nic.mac);
                for (const Mac station : nic.stations) {
                    network_.add_station(homes_[i].nics[side].port, station);
                }
            }
        }
    }
}

void Cluster::boot(size_t index) {
    const Home &home = homes_[index];
    members_[index] = std::make_shared<Member>(
        Member::World{config_, events_, ledger_, network_, control_, on_complete_, on_state_},
        home.name, next_incarnation_++, home.nics, home.forwards, random_.fork());
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
    events_.run_until(events_.now_us() + 8 * config_.transit_us); // frames under way arrive
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
    const Command given = give_command(pick_alive());
    if (config_.faults && random_.chance(0.7)) { // without a fault, some command must succeed
        if (random_.chance(0.4)) {
            plan_fault();
        } else {
            plan_fault_in_a_state(given);
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

Cluster::Command Cluster::give_command(size_t leader) {
    const bool all = random_.chance(0.7);
    Json targets = Json::array();
    for (size_t i = 0; i < homes_.size(); i++) {
        // A switch that is no member is the outside: frames that it holds are in no record.
        if (homes_[i].forwards ||
            (i == leader ? random_.chance(0.5) : all || random_.chance(0.5))) {
            targets.push_back({{"name", homes_[i].name}, {"address", homes_[i].name}});
        }
    }
    const bool restore = random_.chance(0.15);
    const bool barrier = !restore && random_.chance(0.25);
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
    if (barrier) {
        constexpr uint64_t holds_us[] = {2'000, 30'000, 200'000, 200'000};
        request["cut"] = "barrier";
        request["content"] = "disks";
        request["hold_us"] = holds_us[random_.below(std::size(holds_us))];
    } else if (!restore && random_.chance(0.3)) { // the copies are to end at one instant
        constexpr uint64_t durations_us[] = {20'000, 400'000, 1'000'000, 3'000'000};
        request["duration_us"] = durations_us[random_.below(std::size(durations_us))];
        request["strict"] = random_.chance(0.2);
        if (random_.chance(0.2)) {
            events_.after(random_.below(500'000), [this, leader] {
                if (members_[leader]->alive()) {
                    members_[leader]->set_duration(random_.below(4) * 300'000);
                }
            });
        }
    } else if (!restore && random_.chance(0.3)) {
        request["mode"] = "precopy";
    }
    if (restore) {
        request["bundle"] = "/bundles/t";
    } else {
        request["tag"] = "t" + std::to_string(tags_++);
        request["directory"] = "/bundles";
    }
    members_[leader]->initiate(restore, to_text(request));
    return restore ? Command::restore : barrier ? Command::barrier : Command::snapshot;
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
void Cluster::plan_fault_in_a_state(Command command) {
    using member::State;
    enum class Kind : uint8_t { failure, crash, cancel, broken_links, stall };
    const auto pick = [this](State first, State last) {
        return static_cast<State>(
            random_.between(static_cast<uint64_t>(first), static_cast<uint64_t>(last)));
    };
    State where = command == Command::restore ? pick(State::loading, State::load_failed)
                  : command == Command::barrier && random_.chance(0.7)
                      ? pick(State::flushing, State::switching)
                      : pick(State::beginning, State::undoing);
    while (command == Command::snapshot && where >= State::flushing && where <= State::switching) {
        where = pick(State::beginning, State::undoing);
    }
    // Other faults reach each state in other ways, too; a crash hardly does.
    constexpr Kind kinds[] = {Kind::failure, Kind::failure, Kind::crash, Kind::crash,
                              Kind::crash,   Kind::cancel,  Kind::stall, Kind::broken_links};
    const Kind kind = where == State::held && random_.chance(0.6)
                          ? Kind::stall
                          : kinds[random_.below(std::size(kinds))];
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
        events_.after(delay_us, [this, kind, where, name = member.name()] {
            if (kind == Kind::cancel) {
                cancel();
            }
            if (kind == Kind::stall && where == State::held) { // SWITCH comes after its hold
                control_.freeze(name, events_.now_us() + random_.between(30'000, 1'000'000));
                return;
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
    members_[traffic_random_.below(members_.size())]->guest_writes();
    events_.after(traffic_random_.below(2000 / config_.frames_per_ms + 1), [this] { traffic(); });
}

void Cluster::send_one() {
    const auto &member = members_[traffic_random_.below(members_.size())];
    const size_t nic = traffic_random_.below(member->nics().size());
    const auto pick = [this](const Nic &of) {
        return !of.stations.empty() && traffic_random_.chance(0.3)
                   ? of.stations[traffic_random_.below(of.stations.size())]
                   : of.mac;
    };
    const Nic &own = member->nics()[nic];
    const Mac source = pick(own);
    // A broadcast is a frame for each member: in a large cluster they would fill the network.
    if (traffic_random_.chance(std::min(0.05, 0.4 / static_cast<double>(members_.size())))) {
        member->guest_sends(nic, source, Mac(0xffff'ffff'ffff), 1);
        return;
    }
    const Home &other = homes_[traffic_random_.below(homes_.size())];
    const Mac to = pick(other.nics[traffic_random_.below(other.nics.size())]);
    const bool own_address = to == own.mac || std::find(own.stations.begin(), own.stations.end(),
                                                        to) != own.stations.end();
    if (!own_address) {
        member->guest_sends(nic, source, to,
                            traffic_random_.chance(0.2) ? traffic_random_.between(2, 5) : 1);
    }
}

} // namespace hotsnap::sim
