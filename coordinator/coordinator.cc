// SPDX-License-Identifier: GPL-2.0-or-later
#include "coordinator.h"

#include <algorithm>

namespace hotsnap::cluster {

namespace {

constexpr uint64_t hello_timeout_us = 10'000'000;
// Whoever can connect may make a member keep as much, without saying who it is.
constexpr size_t largest_before_hello = size_t{64} << 10;

} // namespace

Coordinator::Coordinator(std::string name)
    : name_(std::move(name)), peer_(name_, static_cast<PeerOutlet &>(*this)) {
    if (!is_valid_name(name_)) {
        throw BadInput("member name '" + name_ + "' is not of the form " + name_form);
    }
}

// The user.

void Coordinator::initiate(Request::Kind kind, const Json &json, uint64_t now_us) {
    advance(now_us);
    if (peer_.busy()) {
        throw BadInput(peer_.occupation() + "; wait until it is over, or cancel it there");
    }
    if (initiator_) {
        throw BadInput("'" + initiator_->request().tag +
                       "' is still being undone on other "
                       "members; try again when it has finished");
    }
    Request request = Request::parse(kind, name_, json);
    // Unique without randomness: a member that was restarted finds a later time.
    const std::string run = name_ + "/" + std::to_string(now_us_) + "/" + std::to_string(++runs_);
    member_links_.assign(request.members.size(), 0);
    initiator_ =
        std::make_unique<Initiator>(std::move(request), run, static_cast<InitiatorOutlet &>(*this));
    initiator_->start(now_us_);
    settle();
}

void Coordinator::cancel(const std::string &reason, uint64_t now_us) {
    advance(now_us);
    if (initiator_) {
        initiator_->cancel(reason, now_us_);
    }
    settle();
}

void Coordinator::local(hs_local_kind kind, const char *json, uint64_t now_us) {
    advance(now_us);
    Json object = Json::object();
    try {
        object = parse_object(json);
    } catch (const BadInput &e) {
        kind = HS_LOCAL_FAILED;
        object = {{"error", std::string("bad answer of the local side: ") + e.what()}};
    }
    const bool publishing = initiator_ && initiator_->publishing();
    if (publishing && kind == HS_LOCAL_PUBLISHED) {
        initiator_->on_published(now_us_);
    } else if (publishing && kind == HS_LOCAL_FAILED) {
        // This member's own part is complete by now: it is the publishing that failed.
        const auto error = object.find("error");
        initiator_->on_publish_failed(
            error != object.end() && error->is_string() ? error->get<std::string>() : "no reason",
            now_us_);
    } else {
        peer_.on_local(kind, object, now_us_);
    }
    settle();
}

// Links.

void Coordinator::link_up(hs_link id, bool inbound, const std::string &address, uint64_t now_us) {
    advance(now_us);
    if (id == 0 || links_.contains(id)) {
        peer_.ignore_event();
        return;
    }
    std::optional<size_t> member;
    if (!inbound) {
        const auto pending = connects_.find(address);
        if (pending != connects_.end() && --pending->second == 0) {
            connects_.erase(pending);
        }
        member = member_at(address);
        if (!member) { // of a run that is over
            actions_.push_back({.kind = HS_DO_CLOSE, .link = id, .text = {}, .data = {}});
            settle();
            return;
        }
        member_links_[*member] = id;
    }
    Link &link = links_[id];
    link.inbound = inbound;
    link.address = address;
    link.member = member;
    link.decoder.set_limit(largest_before_hello);
    link.hello_deadline_us = now_us_ + hello_timeout_us;
    hello_waits_.insert({link.hello_deadline_us, id});
    if (!inbound) {
        send_on(id, Hello{protocol_version, name_});
    }
    settle();
}

void Coordinator::link_down(hs_link id, const std::string &address, const std::string &reason,
                            uint64_t now_us) {
    advance(now_us);
    const auto at = links_.find(id);
    if (at != links_.end()) {
        on_down(forget(at), id, reason);
    } else if (id == 0) {
        const auto pending = connects_.find(address);
        if (pending != connects_.end() && --pending->second == 0) {
            connects_.erase(pending);
        }
        if (const std::optional<size_t> member = member_at(address)) {
            initiator_->on_member_down(*member, reason, now_us_);
        }
    }
    settle();
}

void Coordinator::on_down(Link link, hs_link id, const std::string &reason) {
    if (link.inbound) {
        peer_.on_link_down(id, reason, now_us_);
    } else if (link.member && initiator_) {
        member_links_[*link.member] = 0;
        initiator_->on_member_down(*link.member, reason, now_us_);
    }
}

void Coordinator::drop(hs_link id, const std::string &reason) {
    const auto at = links_.find(id);
    if (at == links_.end()) {
        return;
    }
    send_on(id, ErrorMessage{reason});
    actions_.push_back({.kind = HS_DO_CLOSE, .link = id, .text = {}, .data = {}});
    on_down(forget(at), id, reason);
}

Coordinator::Link Coordinator::forget(std::map<hs_link, Link>::iterator at) {
    Link link = std::move(at->second);
    hello_waits_.erase({link.hello_deadline_us, at->first});
    links_.erase(at);
    return link;
}

std::optional<size_t> Coordinator::member_at(const std::string &address) const {
    if (!initiator_ || initiator_->done()) {
        return std::nullopt;
    }
    const auto &members = initiator_->request().members;
    for (size_t i = 0; i < members.size(); i++) {
        if (i != initiator_->request().self && members[i].address == address &&
            member_links_[i] == 0) {
            return i;
        }
    }
    return std::nullopt;
}

void Coordinator::bytes(hs_link id, std::span<const uint8_t> data, uint64_t now_us) {
    advance(now_us);
    auto at = links_.find(id);
    if (at != links_.end()) {
        at->second.decoder.feed(data);
    }
    // A message may close this link, or any other.
    for (; at != links_.end(); at = links_.find(id)) {
        const std::optional<std::string> message = at->second.decoder.next();
        if (!message) {
            if (!at->second.decoder.error().empty()) {
                drop(id, "malformed input: " + std::string(at->second.decoder.error()));
            }
            break;
        }
        on_message(id, *message);
        settle();
    }
    settle();
}

void Coordinator::on_message(hs_link id, const std::string &text) {
    std::optional<Message> message;
    try {
        message = decode(text);
    } catch (const UnknownMessage &e) {
        peer_.ignore_event();
        send_on(id, ErrorMessage{e.what()});
        return;
    } catch (const BadInput &e) {
        drop(id, std::string("malformed input: ") + e.what());
        return;
    }
    Link &link = links_.at(id);
    if (const auto *hello = std::get_if<Hello>(&*message)) {
        on_hello(id, *hello);
    } else if (link.name.empty()) {
        const auto *error = std::get_if<ErrorMessage>(&*message);
        drop(id, error ? "the other side says: " + error->reason
                       : std::string(type_of(*message)) + " came before HELLO");
    } else if (link.inbound) {
        peer_.on_message(id, link.name, *message, now_us_);
    } else if (link.member && initiator_) {
        initiator_->on_message(*link.member, *message, now_us_);
    }
}

void Coordinator::on_hello(hs_link id, const Hello &hello) {
    Link &link = links_.at(id);
    if (!link.name.empty()) {
        drop(id, "a second HELLO");
        return;
    }
    if (hello.protocol != protocol_version) {
        drop(id, "protocol version " + std::to_string(hello.protocol) + ", but '" + name_ +
                     "' speaks version " + std::to_string(protocol_version) +
                     "; run the same release on all members");
        return;
    }
    if (!is_valid_name(hello.name)) {
        drop(id, std::string("the other side's name is not of the form ") + name_form);
        return;
    }
    if (link.inbound && hello.name == name_) {
        drop(id, "'" + name_ + "' is this member's own name; give each member its own");
        return;
    }
    if (link.member && initiator_) {
        const std::string &expected = initiator_->request().members[*link.member].name;
        if (hello.name != expected) {
            drop(id, "at " + link.address + " there is member '" + hello.name + "', not '" +
                         expected + "'; correct the address");
            return;
        }
    }
    link.name = hello.name;
    link.decoder.set_limit(wire::largest_message);
    hello_waits_.erase({link.hello_deadline_us, id});
    link.hello_deadline_us = never;
    if (link.inbound) {
        send_on(id, Hello{protocol_version, name_});
    } else if (link.member && initiator_) {
        initiator_->on_member_up(*link.member, now_us_);
    }
}

// Sending.

std::shared_ptr<const std::string> Coordinator::encoded(const Message &message,
                                                        std::string &error) const {
    const std::string text = encode(message);
    if (text.size() > wire::largest_message) {
        error = std::string(type_of(message)) + " would be larger than a message may be, " +
                std::to_string(wire::largest_message) + " bytes";
        return nullptr;
    }
    return std::make_shared<const std::string>(wire::frame(text));
}

void Coordinator::send_on(hs_link id, const Message &message) {
    std::string error;
    auto data = encoded(message, error);
    if (!data) {
        data = encoded(ErrorMessage{error}, error); // short, and it ends the run with a reason
    }
    actions_.push_back({.kind = HS_DO_SEND, .link = id, .text = {}, .data = std::move(data)});
}

void Coordinator::reply(hs_link id, Message message) {
    if (id == 0) {
        to_own_initiator_.push_back(std::move(message));
    } else if (links_.contains(id)) {
        send_on(id, message);
    }
}

void Coordinator::close_link(hs_link id) {
    const auto at = links_.find(id);
    if (at != links_.end()) {
        forget(at);
        actions_.push_back({.kind = HS_DO_CLOSE, .link = id, .text = {}, .data = {}});
    }
}

void Coordinator::connect(size_t member) {
    const std::string &address = initiator_->request().members[member].address;
    if (connects_[address]++ > 0) {
        connects_[address]--; // one of an aborted run is still under way: it will do
        return;
    }
    actions_.push_back({.kind = HS_DO_CONNECT, .text = address, .data = {}});
}

void Coordinator::send(size_t member, const Message &message) {
    broadcast({member}, message);
}

void Coordinator::broadcast(const std::vector<size_t> &members, const Message &message) {
    std::shared_ptr<const std::string> data;
    for (const size_t member : members) {
        if (member == initiator_->request().self) {
            to_own_peer_.push_back(message);
            continue;
        }
        const hs_link id = member_links_[member];
        if (id == 0) {
            continue;
        }
        if (!data) {
            std::string error;
            data = encoded(message, error);
            if (!data) {
                to_own_initiator_.push_back(ErrorMessage{error});
                return;
            }
        }
        actions_.push_back({.kind = HS_DO_SEND, .link = id, .text = {}, .data = data});
    }
}

void Coordinator::disconnect(size_t member) {
    if (const hs_link id = std::exchange(member_links_[member], 0)) {
        close_link(id);
    }
}

void Coordinator::act(hs_action_kind kind, std::string text, bool failed) {
    if (kind == HS_SAY_FINISHED) {
        finished_ = {.kind = kind, .text = std::move(text), .data = {}, .failed = failed};
        return;
    }
    actions_.push_back({.kind = kind, .text = std::move(text), .data = {}, .failed = failed});
}

// After each event.

void Coordinator::settle() {
    while (!to_own_peer_.empty() || !to_own_initiator_.empty()) {
        if (!to_own_peer_.empty()) {
            const Message message = std::move(to_own_peer_.front());
            to_own_peer_.pop_front();
            peer_.on_message(0, name_, message, now_us_);
        } else {
            const Message message = std::move(to_own_initiator_.front());
            to_own_initiator_.pop_front();
            if (initiator_) {
                initiator_->on_message(initiator_->request().self, message, now_us_);
            }
        }
    }
    if (initiator_ && initiator_->done()) {
        initiator_.reset();
    }
    if (finished_) { // the last word of a run, after this member's own part has ended, too
        actions_.push_back(std::move(*finished_));
        finished_.reset();
    }
    uint64_t deadline = peer_.deadline();
    if (initiator_) {
        deadline = std::min(deadline, initiator_->deadline());
    }
    if (!hello_waits_.empty()) {
        deadline = std::min(deadline, hello_waits_.begin()->first);
    }
    if (deadline != timer_us_) {
        timer_us_ = deadline;
        actions_.push_back({.kind = HS_DO_TIMER, .deadline_us = deadline, .text = {}, .data = {}});
    }
}

void Coordinator::tick(uint64_t now_us) {
    advance(now_us);
    timer_us_ = never; // it has fired: what is due again must be asked for again
    while (!hello_waits_.empty() && hello_waits_.begin()->first <= now_us_) {
        drop(hello_waits_.begin()->second, "no HELLO within 10 s");
    }
    peer_.tick(now_us_);
    if (initiator_) {
        initiator_->tick(now_us_);
    }
    settle();
}

void Coordinator::give_up(const std::string &reason, uint64_t now_us) {
    advance(now_us);
    if (initiator_) {
        initiator_->fail(reason, now_us_);
    }
    peer_.on_local(HS_LOCAL_FAILED, {{"error", reason}}, now_us_);
    settle();
}

std::optional<Action> Coordinator::next_action() {
    if (actions_.empty()) {
        return std::nullopt;
    }
    Action action = std::move(actions_.front());
    actions_.pop_front();
    return action;
}

Json Coordinator::status() const {
    Json status = peer_.status();
    if (initiator_) {
        initiator_->add_status(status);
    }
    status["ignored_events"] = peer_.ignored_events();
    return status;
}

} // namespace hotsnap::cluster
