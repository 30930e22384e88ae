// SPDX-License-Identifier: GPL-2.0-or-later
// hotsnap/coordinator.h over the C++ classes: conversions only.
#include "base/c_boundary.h"
#include "coordinator.h"
#include "member/handles.h"

using namespace hotsnap;
using namespace hotsnap::cluster;

struct hs_coordinator {
    explicit hs_coordinator(const char *name) : impl(name ? name : "") {}

    Coordinator impl;
    std::optional<Action> current; // keeps text and data of the last action alive
    bool broken = false;           // an event failed, and so did giving up
};

namespace {

std::string text_or(const char *text, const char *otherwise) {
    return text ? text : otherwise;
}

/*
 * Runs an event. An error inside must end the run, not the virtual machine: no exception is
 * expected here, but none may cross the interface either. When memory does not even suffice to end
 * the run, the next event ends it.
 */
template <typename Body> void event(hs_coordinator *c, uint64_t now_us, Body body) {
    char *error = nullptr;
    const bool good = !c->broken && guarded(&error, false, [&] {
        body(c->impl);
        return true;
    });
    if (!good) {
        c->broken = !guarded(nullptr, false, [&] {
            c->impl.give_up(std::string("internal error: ") + (error ? error : "out of memory"),
                            now_us);
            return true;
        });
        std::free(error);
    }
}

bool initiate(hs_coordinator *c, Request::Kind (*kind)(const Json &), const char *request,
              uint64_t now_us, char **error) {
    return guarded(error, false, [&] {
        const Json json = parse_object(request);
        c->impl.initiate(kind(json), json, now_us);
        return true;
    });
}

} // namespace

hs_coordinator *hs_coordinator_new(const char *name, char **error) {
    return guarded<hs_coordinator *>(error, nullptr, [&] { return new hs_coordinator(name); });
}

void hs_coordinator_free(hs_coordinator *c) {
    delete c;
}

bool hs_coordinator_snapshot(hs_coordinator *c, const char *request_json, uint64_t now_us,
                             char **error) {
    return initiate(c, Request::snapshot_kind, request_json, now_us, error);
}

bool hs_coordinator_restore(hs_coordinator *c, const char *request_json, uint64_t now_us,
                            char **error) {
    const auto kind = [](const Json &) { return Request::Kind::restore; };
    return initiate(c, kind, request_json, now_us, error);
}

void hs_coordinator_cancel(hs_coordinator *c, const char *reason, uint64_t now_us) {
    event(c, now_us, [&](Coordinator &it) { it.cancel(text_or(reason, "by the user"), now_us); });
}

bool hs_coordinator_set_duration(hs_coordinator *c, uint64_t duration_us, uint64_t now_us,
                                 char **error) {
    return guarded(error, false, [&] {
        c->impl.set_duration(duration_us, now_us);
        return true;
    });
}

void hs_coordinator_link_up(hs_coordinator *c, hs_link link, bool inbound, const char *address,
                            uint64_t now_us) {
    hs_coordinator_link_up_as(c, link, inbound, address, nullptr, now_us);
}

void hs_coordinator_link_up_as(hs_coordinator *c, hs_link link, bool inbound, const char *address,
                               const char *const *names, uint64_t now_us) {
    event(c, now_us, [&](Coordinator &it) {
        std::optional<std::vector<std::string>> proved;
        if (names) {
            proved.emplace();
            for (const char *const *name = names; *name; name++) {
                proved->emplace_back(*name);
            }
        }
        it.link_up(link, inbound, text_or(address, ""), std::move(proved), now_us);
    });
}

void hs_coordinator_link_refused(hs_coordinator *c, hs_link link, bool inbound, const char *address,
                                 const char *reason, uint64_t now_us) {
    event(c, now_us, [&](Coordinator &it) {
        it.link_refused(link, inbound, text_or(address, ""), text_or(reason, "not allowed"),
                        now_us);
    });
}

void hs_coordinator_link_down(hs_coordinator *c, hs_link link, const char *address,
                              const char *reason, uint64_t now_us) {
    event(c, now_us, [&](Coordinator &it) {
        it.link_down(link, text_or(address, ""), text_or(reason, "connection closed"), now_us);
    });
}

const char *hs_coordinator_wants(hs_coordinator *c, const char *address) {
    return guarded<const char *>(nullptr, nullptr, [&] {
        const std::string *name = c->impl.wants(text_or(address, ""));
        return name ? name->c_str() : nullptr;
    });
}

void hs_coordinator_bytes(hs_coordinator *c, hs_link link, const uint8_t *data, size_t size,
                          uint64_t now_us) {
    event(c, now_us, [&](Coordinator &it) { it.bytes(link, {data, size}, now_us); });
}

void hs_coordinator_tick(hs_coordinator *c, uint64_t now_us) {
    event(c, now_us, [&](Coordinator &it) { it.tick(now_us); });
}

void hs_coordinator_event(hs_coordinator *c, hs_event *taken, uint64_t now_us) {
    const std::unique_ptr<hs_event> owned(taken);
    event(c, now_us, [&](Coordinator &it) {
        if (owned) {
            it.local(owned->event, now_us);
        }
    });
}

bool hs_coordinator_next_action(hs_coordinator *c, hs_action *action) {
    bool taken = false;
    event(c, 0, [&](Coordinator &it) {
        c->current = it.next_action();
        if (!c->current) {
            return;
        }
        Action &a = *c->current;
        std::unique_ptr<hs_work> work;
        if (a.work) {
            work = std::make_unique<hs_work>(hs_work{std::move(*a.work)});
        }
        *action = {a.kind,  a.link, a.deadline_us, a.text.c_str(),
                   nullptr, 0,      a.failed,      work.release()};
        if (a.data) {
            action->data = reinterpret_cast<const uint8_t *>(a.data->data());
            action->size = a.data->size();
        }
        taken = true;
    });
    return taken;
}

char *hs_coordinator_status_json(hs_coordinator *c) {
    return guarded<char *>(nullptr, nullptr, [&] { return c_string(to_text(c->impl.status())); });
}
