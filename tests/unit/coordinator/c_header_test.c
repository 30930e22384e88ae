// SPDX-License-Identifier: GPL-2.0-or-later
// The headers in C11, and the contracts that only a C caller meets: ownership of strings, NULL
// errors, struct sizes.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hotsnap/coordinator.h"
#include "hotsnap/mediator.h"
#include "hotsnap/member.h"

static int failures;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            failures++;                                                                            \
        }                                                                                          \
    } while (0)

/* Frees the string as hs_string_free() does. */
static void check_string(char *text, const char *part) {
    CHECK(text && strstr(text, part));
    if (text && !strstr(text, part)) {
        fprintf(stderr, "  '%s' has no '%s'\n", text, part);
    }
    free(text);
}

static void test_coordinator(void) {
    char *error = NULL;
    hs_action action;
    bool prepared = false, connected = false, timer = false;

    CHECK(!hs_coordinator_new("a/b", &error));
    check_string(error, "a/b");
    CHECK(!hs_coordinator_new(NULL, NULL));

    hs_coordinator *c = hs_coordinator_new("db", NULL);
    hs_mediator *mediator = hs_mediator_new();
    hs_member *member = hs_member_new("db", mediator, "boot", NULL);
    hs_step step;
    CHECK(c && member);
    CHECK(!hs_coordinator_next_action(c, &action));
    error = NULL;
    CHECK(!hs_coordinator_snapshot(c, "{", 0, &error));
    check_string(error, "JSON");
    CHECK(!hs_coordinator_snapshot(c, NULL, 0, NULL));
    CHECK(hs_coordinator_snapshot(c,
                                  "{\"tag\":\"t1\",\"directory\":\"/b\",\"members\":["
                                  "{\"name\":\"web\",\"address\":\"unix:/run/web.sock\"}]}",
                                  1000, NULL));
    while (hs_coordinator_next_action(c, &action)) {
        CHECK(action.text);
        CHECK((action.kind == HS_DO_WORK) == (action.work != NULL));
        if (action.work) {
            prepared |= !strcmp(hs_work_name(action.work), "prepare");
            hs_member_work(member, action.work);
        }
        connected |= action.kind == HS_DO_CONNECT && !strcmp(action.text, "unix:/run/web.sock");
        timer |= action.kind == HS_DO_TIMER && action.deadline_us > 1000;
    }
    CHECK(prepared && connected && timer);
    hs_work_free(NULL);
    hs_event_free(NULL);
    hs_coordinator_event(c, NULL, 1500);
    CHECK(hs_coordinator_wants(c, "unix:/run/web.sock"));
    CHECK(!hs_coordinator_wants(c, "unix:/run/other.sock") && !hs_coordinator_wants(c, NULL));
    hs_coordinator_link_up(c, 7, false, "unix:/run/web.sock", 2000);
    CHECK(!hs_coordinator_wants(c, "unix:/run/web.sock"));
    CHECK(hs_coordinator_next_action(c, &action));
    CHECK(action.kind == HS_DO_SEND && action.link == 7 && action.size > 4 && action.data);
    check_string(hs_coordinator_status_json(c), "\"phase\":\"prepare\"");
    hs_coordinator_bytes(c, 7, (const uint8_t *)"\xff\xff\xff\xff", 4, 3000);
    bool failed = false;
    while (!failed && hs_coordinator_next_action(c, &action)) {
        failed |= action.kind == HS_SAY_FINISHED && action.failed;
        if (action.work) { /* the abort */
            hs_member_work(member, action.work);
        }
        while (hs_member_next_step(member, &step)) {
            if (step.kind == HS_STEP_EVENT) {
                hs_coordinator_event(c, step.u.event, 4000);
            } else if (step.kind == HS_STEP_BEGIN_SNAPSHOT) {
                hs_member_begun(member, "not here");
            }
        }
    }
    CHECK(failed);
    hs_member_free(member);
    hs_mediator_free(mediator);
    hs_coordinator_free(c);
    hs_coordinator_free(NULL);
}

static const char *members = "[{\"name\":\"a\",\"nics\":[{\"nic\":\"net0\",\"mac\":"
                             "\"52:54:00:00:00:01\",\"sources\":[],\"complete\":true}]},"
                             "{\"name\":\"b\",\"nics\":[{\"nic\":\"net0\",\"mac\":"
                             "\"52:54:00:00:00:02\",\"sources\":[],\"complete\":true}]}]";

/* The frames here have 60 bytes, of which the mediator is shown 20. */
static void copy_rest(void *opaque, uint8_t *to) {
    memcpy(to, (const uint8_t *)opaque + 20, 40);
}

/* Whether that is an alias in a color of epoch 2. */
static bool is_white(const uint8_t source[6]) {
    return (source[0] & 3) == 2 && source[3] >> 6 == 0;
}
static bool is_red(const uint8_t source[6]) {
    return (source[0] & 3) == 2 && source[3] >> 6 == 1;
}

/* The frame as member b sends it, white. */
static void send_from_b(uint8_t frame[60]) {
    hs_mediator *b = hs_mediator_new();
    uint32_t nic = hs_mediator_add_nic(b, "net0", frame + 6, 0, 1);
    hs_frame out = {nic, HS_FROM_GUEST, frame, 60, 0, 0};
    uint8_t source[6];

    CHECK(hs_mediator_prepare(b, 2, "b", members, true, NULL));
    hs_mediator_start_coloring(b);
    CHECK(hs_mediator_frame(b, &out, 0, source) == HS_PASS && is_white(source));
    memcpy(frame + 6, source, 6);
    hs_mediator_free(b);
}

static void test_mediator(void) {
    const uint8_t mac[6] = {0x52, 0x54, 0, 0, 0, 1}, other[6] = {0x52, 0x54, 0, 0, 0, 2};
    uint8_t source[6] = {0};
    uint8_t sent[60] = {0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 8, 0};
    uint8_t received[60] = {0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 2, 8, 0};
    char *error = NULL;
    hs_mediator *m = hs_mediator_new();
    uint32_t nic = hs_mediator_add_nic(m, "net0", mac, 0, 1), probes = 0;
    hs_frame out = {nic, HS_FROM_GUEST, sent, sizeof(sent), 0, 0};
    hs_frame in = {nic, HS_TO_GUEST, received, sizeof(received), 0, 0};
    char folder[] = "/tmp/hotsnap-c-XXXXXX", pcap[64], vnet[64];

    CHECK(mkdtemp(folder));
    snprintf(pcap, sizeof(pcap), "%s/p", folder);
    snprintf(vnet, sizeof(vnet), "%s/v", folder);
    check_string(hs_mediator_nics_json(m), "52:54:00:00:00:01");
    CHECK(!hs_mediator_prepare(m, 2, "a", "[]", true, &error));
    check_string(error, "'a'");
    CHECK(!hs_mediator_prepare(m, 2, NULL, NULL, true, NULL));
    CHECK(hs_mediator_prepare(m, 2, "a", members, true, NULL));
    hs_mediator_probe(m);
    for (hs_frame probe; hs_mediator_next_released(m, &probe, 0); probes++) {
        CHECK(probe.nic == nic && probe.direction == HS_FROM_GUEST && probe.size == 60);
    }
    CHECK(probes == 3);
    send_from_b(received);
    hs_mediator_start_coloring(m);
    CHECK(!hs_mediator_armed(m));
    CHECK(hs_mediator_frame_head(m, &out, 20, copy_rest, sent, 0, source) == HS_PASS);
    CHECK(is_white(source));
    hs_mediator_cut(m);
    CHECK(!hs_mediator_contacts_json(m, 0));
    hs_mediator_begin_contacts(m, 0);
    CHECK(hs_mediator_frame(m, &out, 7000, source) == HS_PASS && is_red(source));
    check_string(hs_mediator_contacts_json(m, 9000), "{\"first_us\":{\"b\":7},\"until_us\":9}");
    check_string(hs_mediator_white_sent_json(m), "\"52:54:00:00:00:01>52:54:00:00:00:02\":1");
    CHECK(hs_mediator_frame(m, &in, 5, source) == HS_PASS && !memcmp(source, other, 6));
    CHECK(!hs_mediator_awaits_empty(m));
    hs_mediator_queue_empty(m, nic, 0); /* nobody waits for it */
    CHECK(hs_mediator_expect(m, "{\"52:54:00:00:00:02>52:54:00:00:00:01\":1}", "{}", NULL));
    CHECK(hs_mediator_channels_complete(m));

    hs_mediator_stats stats = {.struct_size = sizeof(stats)};
    hs_mediator_get_stats(m, &stats);
    CHECK(stats.white_sent == 1 && stats.recorded == 1 && stats.red_sent == 1);
    struct {
        size_t struct_size;
        uint64_t white_sent, next;
    } older = {.struct_size = 2 * sizeof(size_t), .next = 42};
    hs_mediator_get_stats(m, (hs_mediator_stats *)&older);
    CHECK(older.white_sent == 1 && older.next == 42 && older.struct_size == 2 * sizeof(size_t));

    CHECK(hs_mediator_write_channel(m, pcap, vnet, NULL));
    error = NULL;
    CHECK(!hs_mediator_write_channel(m, pcap, vnet, &error));
    check_string(error, pcap);
    memset(sent, 0xff, 6); /* a broadcast waits for the end of coloring */
    CHECK(hs_mediator_frame_head(m, &out, 20, copy_rest, sent, 0, source) == HS_HOLD);
    hs_mediator_end_coloring(m);
    CHECK(hs_mediator_next_released(m, &in, 0));
    CHECK(in.size == sizeof(sent) && !memcmp(in.data, sent, sizeof(sent)));
    hs_mediator_undelivered(m, 3);
    hs_mediator_get_stats(m, &stats);
    CHECK(stats.dropped == 3);
    hs_mediator_reset(m);
    CHECK(!hs_mediator_next_released(m, &in, 0));
    hs_mediator_remove_nic(m, nic);
    hs_mediator_free(m);

    hs_playback *p = hs_playback_open(pcap, vnet, NULL);
    CHECK(p && hs_playback_count(p) == 1);
    CHECK(p && hs_playback_next(p, &in) && in.size == 60 && in.nic == nic);
    CHECK(in.direction == HS_TO_GUEST && !memcmp(in.data + 6, other, 6));
    CHECK(p && !hs_playback_next(p, &in));
    hs_playback_free(p);
    error = NULL;
    CHECK(!hs_playback_open(pcap, pcap, &error));
    check_string(error, pcap);
    unlink(pcap);
    unlink(vnet);
    rmdir(folder);
}

int main(void) {
    test_coordinator();
    test_mediator();
    return failures ? 1 : 0;
}
