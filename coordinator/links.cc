// SPDX-License-Identifier: GPL-2.0-or-later
#include "links.h"

#include <algorithm>

namespace hotsnap::cluster {

namespace {

constexpr uint64_t hello_timeout_us = 10'000'000;
// Any process that can connect can make a member buffer as much before HELLO.
constexpr size_t largest_before_hello = size_t{64} << 10;

std::shared_ptr<const std::string> encoded(const Message &message, std::string &error) {
    const std::string text = encode(message);
    if (text.size() > wire::largest_message) {
        error = std::string(type_of(message)) + " would be larger than a message may be, " +
                std::to_string(wire::largest_message) + " bytes";
        return nullptr;
    }
    return std::make_shared<const std::string>(wire::frame(text));
}

std::string quoted(const std::vector<std::string> &names) {
    std::string text;
    for (const std::string &name : names) {
        text += (text.empty() ? "'" : ", '") + name + "'";
    }
    return text.empty() ? "nobody" : text;
}

} // namespace

// Targets.

void Links::set_targets(std::vector<Request::Target> targets, size_t self) {
    targets_.clear();
    for (Request::Target &target : targets) {
        targets_.push_back({std::move(target.name), std::move(target.address)});
    }
    self_target_ = self;
}

std::optional<size_t> Links::target_at(const std::string &address) const {
    for (size_t i = 0; i < targets_.size(); i++) {
        if (i != self_target_ && targets_[i].address == address && targets_[i].link == 0) {
            return i;
        }
    }
    return std::nullopt;
}

void Links::connect(size_t target) {
    const std::string &address = targets_[target].address;
    if (connects_[address]++ > 0) {
        connects_[address]--; // an attempt of an aborted run is still under way, and suffices
        return;
    }
    user_.emit({.kind = HS_DO_CONNECT, .text = address});
}

void Links::connect_answered(const std::string &address) {
    const auto pending = connects_.find(address);
    if (pending != connects_.end() && --pending->second == 0) {
        connects_.erase(pending);
    }
}

void Links::disconnect(size_t target) {
    if (const hs_link id = std::exchange(targets_[target].link, 0)) {
        close(id);
    }
}

// Connections.

void Links::up(hs_link id, bool inbound, const std::string &address, ProvedNames names,
               uint64_t now_us) {
    if (id == 0 || links_.contains(id)) {
        user_.on_ignored();
        return;
    }
    std::optional<size_t> target;
    if (!inbound) {
        connect_answered(address);
        target = target_at(address);
        if (!target) { // the run that wanted it is over
            user_.emit({.kind = HS_DO_CLOSE, .link = id});
            return;
        }
        targets_[*target].link = id;
    }
    Link &link = links_[id];
    link.inbound = inbound;
    link.address = address;
    link.target = target;
    link.proved = std::move(names);
    if (link.proved) { // a certificate may hold any text; no other member has such a name
        std::erase_if(*link.proved, [](const auto &name) { return !network::is_valid_name(name); });
    }
    link.decoder.set_limit(largest_before_hello);
    link.hello_deadline_us = after(now_us, hello_timeout_us);
    hello_waits_.insert({link.hello_deadline_us, id});
    if (!inbound) {
        send(id, Hello{protocol_version, self_});
    }
}

void Links::refuse(hs_link id, bool inbound, const std::string &address,
                   const std::string &reason) {
    if (id == 0 || links_.contains(id)) {
        user_.on_ignored();
        return;
    }
    send(id, ErrorMessage{reason});
    user_.emit({.kind = HS_DO_CLOSE, .link = id, .text = reason});
    if (!inbound) {
        down(0, address, reason);
    }
}

void Links::down(hs_link id, const std::string &address, const std::string &reason) {
    const auto at = links_.find(id);
    if (at != links_.end()) {
        on_down(forget(at), id, reason);
    } else if (id == 0) {
        connect_answered(address);
        if (const std::optional<size_t> target = target_at(address)) {
            user_.on_target_down(*target, reason);
        }
    }
}

void Links::on_down(const Link &link, hs_link id, const std::string &reason) {
    if (link.inbound) {
        user_.on_inbound_down(id, reason);
    } else if (link.target && *link.target < targets_.size()) {
        targets_[*link.target].link = 0;
        user_.on_target_down(*link.target, reason);
    }
}

void Links::drop(hs_link id, const std::string &reason) {
    const auto at = links_.find(id);
    if (at == links_.end()) {
        return;
    }
    send(id, ErrorMessage{reason});
    user_.emit({.kind = HS_DO_CLOSE, .link = id, .text = reason});
    on_down(forget(at), id, reason);
}

void Links::close(hs_link id) {
    const auto at = links_.find(id);
    if (at != links_.end()) {
        forget(at);
        user_.emit({.kind = HS_DO_CLOSE, .link = id});
    }
}

Links::Link Links::forget(LinkMap::iterator at) {
    Link link = std::move(at->second);
    hello_waits_.erase({link.hello_deadline_us, at->first});
    links_.erase(at);
    return link;
}

// Timers.

void Links::tick(uint64_t now_us) {
    while (!hello_waits_.empty() && hello_waits_.begin()->first <= now_us) {
        drop(hello_waits_.begin()->second, "no HELLO within 10 s");
    }
}

uint64_t Links::deadline() const {
    return hello_waits_.empty() ? never : hello_waits_.begin()->first;
}

// Messages.

void Links::feed(hs_link id, std::span<const uint8_t> data) {
    const auto at = links_.find(id);
    if (at != links_.end()) {
        at->second.decoder.feed(data);
    }
}

bool Links::take_message(hs_link id) {
    const auto at = links_.find(id);
    if (at == links_.end()) {
        return false;
    }
    const std::optional<std::string> message = at->second.decoder.next();
    if (!message) {
        if (!at->second.decoder.error().empty()) {
            drop(id, "malformed input: " + std::string(at->second.decoder.error()));
        }
        return false;
    }
    on_message(id, *message);
    return true;
}

void Links::on_message(hs_link id, const std::string &text) {
    std::optional<Message> message;
    try {
        message = decode(text);
    } catch (const UnknownMessage &e) {
        user_.on_ignored();
        send(id, ErrorMessage{e.what()});
        return;
    } catch (const BadInput &e) {
        drop(id, std::string("malformed input: ") + e.what());
        return;
    }
    const auto at = links_.find(id);
    if (at == links_.end()) {
        return;
    }
    const Link &link = at->second;
    if (const auto *hello = std::get_if<Hello>(&*message)) {
        on_hello(id, *hello);
    } else if (link.name.empty()) {
        const auto *error = std::get_if<ErrorMessage>(&*message);
        drop(id, error ? "the other side says: " + error->reason
                       : std::string(type_of(*message)) + " came before HELLO");
    } else if (link.inbound) {
        // A copy: the message may end the link.
        user_.on_inbound_message(id, std::string(link.name), *message);
    } else if (link.target && *link.target < targets_.size()) {
        user_.on_target_message(*link.target, *message);
    }
}

void Links::on_hello(hs_link id, const Hello &hello) {
    const auto at = links_.find(id);
    if (at == links_.end()) {
        return;
    }
    Link &link = at->second;
    const Target *target =
        link.target && *link.target < targets_.size() ? &targets_[*link.target] : nullptr;
    if (!link.name.empty()) {
        drop(id, "a second HELLO");
        return;
    }
    if (hello.protocol != protocol_version) {
        drop(id, "protocol version " + std::to_string(hello.protocol) + ", but '" + self_ +
                     "' speaks version " + std::to_string(protocol_version) +
                     "; run the same release on all members");
        return;
    }
    if (!network::is_valid_name(hello.name)) {
        drop(id, std::string("the other side's name is not of the form ") + name_form);
        return;
    }
    if (link.inbound && hello.name == self_) {
        drop(id, "'" + self_ + "' is this member's own name; give each member its own");
        return;
    }
    if (target && hello.name != target->name) {
        drop(id, "at " + link.address + " there is member '" + hello.name + "', not '" +
                     target->name + "'; correct the address");
        return;
    }
    if (link.proved && std::ranges::find(*link.proved, hello.name) == link.proved->end()) {
        drop(id, "a certificate of " + quoted(*link.proved) + " does not prove that this is '" +
                     hello.name + "'; give each member a certificate of its own name");
        return;
    }
    link.name = hello.name;
    link.decoder.set_limit(wire::largest_message);
    hello_waits_.erase({link.hello_deadline_us, id});
    link.hello_deadline_us = never;
    if (link.inbound) {
        send(id, Hello{protocol_version, self_});
    } else if (target) {
        user_.on_target_up(*link.target);
    }
}

void Links::send(hs_link id, const Message &message) {
    std::string error;
    auto data = encoded(message, error);
    if (!data) {
        data = encoded(ErrorMessage{error}, error); // it is short, and ends the run with a reason
    }
    user_.emit({.kind = HS_DO_SEND, .link = id, .data = std::move(data)});
}

std::string Links::broadcast(const std::vector<size_t> &targets, const Message &message) {
    std::shared_ptr<const std::string> data;
    for (const size_t target : targets) {
        const hs_link id = targets_[target].link;
        if (id == 0) {
            continue;
        }
        if (!data) {
            std::string error;
            data = encoded(message, error);
            if (!data) {
                return error;
            }
        }
        user_.emit({.kind = HS_DO_SEND, .link = id, .data = data});
    }
    return "";
}

} // namespace hotsnap::cluster
