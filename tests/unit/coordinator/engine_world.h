// SPDX-License-Identifier: GPL-2.0-or-later
// The two engines of a run without links and bytes: an initiator over some members, member 0 itself
// among them, and a peer in each. Local work is collected; the test answers it.
#ifndef HOTSNAP_ENGINE_WORLD_H
#define HOTSNAP_ENGINE_WORLD_H

#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "initiator.h"
#include "peer.h"

namespace hotsnap::cluster {

class EngineWorld {
  public:
    EngineWorld(size_t members, std::span<const PeerRunKind> kinds) {
        for (size_t i = 0; i < members; i++) {
            nodes_.push_back(std::make_unique<Node>(*this, i));
            nodes_[i]->peer = std::make_unique<Peer>(name(i), *nodes_[i], kinds);
        }
    }

    // Member 0 leads; `request.members` is filled in here.
    void lead(Request request, MakeInitiatorRun make) {
        request.members.clear();
        for (size_t i = 0; i < nodes_.size(); i++) {
            request.members.push_back({name(i), "unix:" + name(i)});
        }
        leader_ = std::make_unique<Leader>(*this);
        initiator_ = std::make_unique<Initiator>(std::move(request), "run", *leader_, make);
        initiator_->start(now_us);
        run();
    }

    // Delivers messages until there is none.
    void run() {
        while (!queue_.empty()) {
            const auto next = std::move(queue_.front());
            queue_.pop_front();
            next();
        }
    }

    void answer(size_t member, const member::LocalEvent &event) {
        if (member != 0 || !initiator_ || !initiator_->on_local(event, now_us)) {
            peer(member).on_local(event, now_us);
        }
        run();
    }
    void answer_all(const member::LocalEvent &event) {
        for (size_t i = 0; i < nodes_.size(); i++) {
            answer(i, event);
        }
    }

    // The connection between the initiator and this member breaks; each end learns of it.
    void lose(size_t member) {
        lost_.insert(member);
        initiator_->on_member_down(member, "connection reset", now_us);
        peer(member).on_link_down(link_of(member), "connection reset", now_us);
        run();
    }
    // All connections of the initiator break, and it is gone.
    void lose_initiator() {
        initiator_.reset();
        queue_.clear();
        for (size_t i = 1; i < nodes_.size(); i++) {
            peer(i).on_link_down(link_of(i), "connection reset", now_us);
        }
    }

    // Time passes as timers have it: each engine is called at its deadline.
    void wait(uint64_t us) {
        const uint64_t end_us = now_us + us;
        for (;;) {
            uint64_t next = initiator_ ? initiator_->deadline() : never;
            for (const auto &node : nodes_) {
                next = std::min(next, node->peer->deadline());
            }
            if (next > end_us) {
                now_us = end_us;
                return;
            }
            now_us = std::max(now_us, next);
            tick();
        }
    }
    void tick() {
        for (const auto &node : nodes_) {
            node->peer->tick(now_us);
        }
        if (initiator_) {
            initiator_->tick(now_us);
        }
        run();
    }

    Peer &peer(size_t member) { return *nodes_[member]->peer; }
    Initiator &initiator() { return *initiator_; }
    // The work that this member's machine was given since the last call.
    std::vector<member::LocalWork> take_work(size_t member) {
        return std::exchange(nodes_[member]->work_, {});
    }
    template <typename Work> size_t count_work(size_t member) const {
        size_t count = 0;
        for (const member::LocalWork &work : nodes_[member]->work_) {
            count += std::holds_alternative<Work>(work);
        }
        return count;
    }

    static std::string name(size_t member) { return "m" + std::to_string(member); }
    static hs_link link_of(size_t member) { return member; } // 0 leads to the own initiator

    uint64_t now_us = 1'000'000;
    std::vector<std::string> phases; // of the initiator
    std::string finished;
    bool failed = false;

  private:
    struct Node final : PeerOutlet {
        Node(EngineWorld &w, size_t i) : world(w), index(i) {}
        void work(member::LocalWork work) override { work_.push_back(std::move(work)); }
        void say(hs_action_kind, std::string, bool) override {}
        void reply(hs_link, Message message) override {
            if (!world.lost_.contains(index)) {
                world.queue_.push_back([this, message = std::move(message)] {
                    if (world.initiator_) {
                        world.initiator_->on_message(index, message, world.now_us);
                    }
                });
            }
        }
        void close_link(hs_link) override { world.lost_.insert(index); }

        EngineWorld &world;
        size_t index;
        std::unique_ptr<Peer> peer = {};
        std::vector<member::LocalWork> work_ = {};
    };

    struct Leader final : InitiatorOutlet {
        explicit Leader(EngineWorld &w) : world(w) {}
        void work(member::LocalWork work) override {
            world.nodes_[0]->work_.push_back(std::move(work));
        }
        void say(hs_action_kind kind, std::string text, bool with_failure) override {
            if (kind == HS_SAY_PHASE) {
                world.phases.push_back(get_string(parse_json(text), "phase"));
            } else if (kind == HS_SAY_FINISHED) {
                world.finished = text;
                world.failed = with_failure;
            }
        }
        void connect(size_t member) override {
            world.queue_.push_back(
                [this, member] { world.initiator_->on_member_up(member, world.now_us); });
        }
        void send(size_t member, const Message &message) override {
            if (!world.lost_.contains(member)) {
                world.queue_.push_back([this, member, message] {
                    world.peer(member).on_message(link_of(member), name(0), message, world.now_us);
                });
            }
        }
        void broadcast(const std::vector<size_t> &members, const Message &message) override {
            for (const size_t member : members) {
                send(member, message);
            }
        }
        void disconnect(size_t) override {}

        EngineWorld &world;
    };

    std::vector<std::unique_ptr<Node>> nodes_;
    std::unique_ptr<Leader> leader_;
    std::unique_ptr<Initiator> initiator_;
    std::deque<std::function<void()>> queue_;
    std::set<size_t> lost_;
};

} // namespace hotsnap::cluster
#endif
