// SPDX-License-Identifier: GPL-2.0-or-later
// hotsnap/mediator.h over the C++ classes: conversions only.
#include <algorithm>
#include <cstring>

#include "base/c_boundary.h"
#include "hotsnap/mediator.h"
#include "network/channel_json.h"
#include "network/frame.h"
#include "network/mediator_handle.h"
#include "network/probe.h"

using namespace hotsnap;
using namespace hotsnap::network;

struct hs_playback {
    std::vector<ChannelFrame> frames;
    size_t next = 0;
    size_t next_announcement = 0;
};

namespace {

// For functions that report no error: an exception there can only mean that memory is out.
template <typename T, typename Body> T quietly(T failure, Body body) {
    return guarded<T>(nullptr, failure, body);
}
template <typename Body> void quietly(Body body) {
    quietly(false, [&] {
        body();
        return true;
    });
}

hs_frame hs_frame_of(const ChannelFrame &frame) {
    return {frame.nic,         frame.from_guest ? HS_FROM_GUEST : HS_TO_GUEST,
            frame.data.data(), frame.data.size(),
            frame.vnet_size,   frame.queue};
}

} // namespace

hs_mediator *hs_mediator_new(void) {
    return quietly<hs_mediator *>(nullptr, [] { return new hs_mediator; });
}

void hs_mediator_free(hs_mediator *m) {
    delete m;
}

uint32_t hs_mediator_add_nic(hs_mediator *m, const char *name, const uint8_t mac[6],
                             size_t vnet_header_size, uint32_t queues) {
    return quietly(UINT32_MAX, [&] {
        return m->impl.add_nic(name ? name : "", Mac::from_bytes(mac), vnet_header_size, queues);
    });
}

void hs_mediator_remove_nic(hs_mediator *m, uint32_t nic) {
    quietly([&] { m->impl.remove_nic(nic); });
}

char *hs_mediator_nics_json(hs_mediator *m) {
    return quietly<char *>(nullptr,
                           [&] { return c_string(to_text(nics_to_json(m->impl.list_nics()))); });
}

bool hs_mediator_prepare(hs_mediator *m, uint64_t epoch, const char *self_name,
                         const char *members_json, bool coloring, char **error) {
    return guarded(error, false, [&] {
        if (!self_name || !members_json) {
            throw BadInput("the member table or this member's name is missing");
        }
        std::string why;
        if (!m->impl.prepare(epoch, self_name, members_from_json(parse_json(members_json)),
                             coloring, why)) {
            throw BadInput(why);
        }
        return true;
    });
}

void hs_mediator_probe(hs_mediator *m) {
    quietly([&] { m->impl.probe(); });
}

void hs_mediator_start_coloring(hs_mediator *m) {
    m->impl.start_coloring();
}

bool hs_mediator_armed(hs_mediator *m) {
    return m->impl.armed();
}

void hs_mediator_cut(hs_mediator *m) {
    quietly([&] { m->impl.cut(); });
}

void hs_mediator_mark(hs_mediator *m) {
    quietly([&] { m->impl.mark(); });
}

char *hs_mediator_white_sent_json(hs_mediator *m) {
    return quietly<char *>(nullptr,
                           [&] { return c_string(to_text(counts_to_json(m->impl.white_sent()))); });
}

bool hs_mediator_expect(hs_mediator *m, const char *expected_json, const char *marks_json,
                        char **error) {
    return guarded(error, false, [&] {
        std::string why;
        if (!m->impl.expect(counts_from_json(parse_object(expected_json)),
                            counts_from_json(parse_object(marks_json)), why)) {
            throw BadInput(why);
        }
        return true;
    });
}

bool hs_mediator_awaits_empty(hs_mediator *m) {
    return m->impl.awaits_empty();
}

void hs_mediator_queue_empty(hs_mediator *m, uint32_t nic, uint32_t queue) {
    quietly([&] { m->impl.queue_empty(nic, queue); });
}

bool hs_mediator_channels_complete(hs_mediator *m) {
    return m->impl.channels_complete();
}

void hs_mediator_close_channels(hs_mediator *m) {
    m->impl.close_channels();
}

void hs_mediator_end_coloring(hs_mediator *m) {
    m->impl.end_coloring();
}

void hs_mediator_reset(hs_mediator *m) {
    quietly([&] { m->impl.reset(); });
}

hs_verdict hs_mediator_frame(hs_mediator *m, const hs_frame *frame, int64_t now_ns,
                             uint8_t source[6]) {
    return hs_mediator_frame_head(m, frame, frame->size, nullptr, nullptr, now_ns, source);
}

hs_verdict hs_mediator_frame_head(hs_mediator *m, const hs_frame *frame, size_t head_size,
                                  hs_copy_rest copy, void *opaque, int64_t now_ns,
                                  uint8_t source[6]) {
    return quietly(HS_HOLD, [&] {
        Mac mac;
        const hs_verdict verdict = m->impl.frame(*frame, {head_size, copy, opaque}, now_ns, mac);
        mac.to_bytes(source);
        return verdict;
    });
}

bool hs_mediator_has_own_address(hs_mediator *m, uint32_t nic) {
    return m->impl.has_own_address(nic);
}

bool hs_mediator_announce_own(hs_mediator *m, uint32_t nic, hs_frame *frame) {
    return quietly(false, [&] { return m->impl.announce_own(nic, *frame); });
}

void hs_mediator_played(hs_mediator *m, const hs_frame *frame, int64_t now_ns) {
    quietly([&] { m->impl.played(*frame, now_ns); });
}

void hs_mediator_undelivered(hs_mediator *m, uint64_t frames) {
    m->impl.undelivered(frames);
}

bool hs_mediator_next_released(hs_mediator *m, hs_frame *frame, int64_t now_ns) {
    return m->impl.next_released(*frame, now_ns);
}

void hs_mediator_begin_contacts(hs_mediator *m, int64_t now_ns) {
    quietly([&] { m->impl.begin_contacts(now_ns); });
}

char *hs_mediator_contacts_json(hs_mediator *m, int64_t now_ns) {
    return quietly<char *>(nullptr, [&]() -> char * {
        const std::optional<ContactRecord> record = m->impl.contacts(now_ns);
        return record ? c_string(to_text(contacts_to_json(*record, m->impl.table().members())))
                      : nullptr;
    });
}

bool hs_mediator_write_channel(hs_mediator *m, const char *pcap_path, const char *vnet_path,
                               char **error) {
    return guarded(error, false, [&] {
        std::string why;
        if (!m->impl.record().write(pcap_path, vnet_path, why)) {
            throw BadInput(why);
        }
        return true;
    });
}

void hs_mediator_get_stats(hs_mediator *m, hs_mediator_stats *stats) {
    // A caller built against an older header has a shorter struct: it gets the fields it knows.
    const size_t size = std::min(stats->struct_size, sizeof(*stats));
    hs_mediator_stats now = m->impl.stats();
    now.struct_size = size;
    std::memcpy(stats, &now, size);
}

hs_playback *hs_playback_open(const char *pcap_path, const char *vnet_path, char **error) {
    return guarded<hs_playback *>(error, nullptr, [&] {
        std::string why;
        auto frames = ChannelRecord::read(pcap_path, vnet_path, why);
        if (!frames) {
            throw BadInput(why);
        }
        return new hs_playback{std::move(*frames)};
    });
}

size_t hs_playback_count(hs_playback *p) {
    return p->frames.size();
}

bool hs_playback_next(hs_playback *p, hs_frame *frame) {
    if (p->next == p->frames.size()) {
        return false;
    }
    *frame = hs_frame_of(p->frames[p->next++]);
    return true;
}

bool hs_playback_next_announcement(hs_playback *p, hs_frame *frame) {
    while (p->next_announcement < p->frames.size()) {
        const ChannelFrame &next = p->frames[p->next_announcement++];
        const auto view = FrameView::parse(next.data.data(), next.data.size(), next.vnet_size);
        if (next.from_guest && view && Probe::parse(*view)) {
            *frame = hs_frame_of(next);
            return true;
        }
    }
    return false;
}

void hs_playback_free(hs_playback *p) {
    delete p;
}
