/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The packet mediator: colors the frames between members, holds those that must wait for the cut,
 * counts and records the channel state. (HotSnap, LISA '13, sections 3.3 and 4.3.)
 *
 * Sans-I/O: frames in, verdicts out; the caller delivers. One mediator serves all NICs of a member.
 * Not thread safe: QEMU calls it under the BQL. The exception is hs_mediator_write_channel, during
 * which QEMU lets the record stand still. Conventions as in base.h.
 *
 * Color. While a member is in an epoch, the source MAC of each frame from one member to another is
 * replaced by an alias (network/alias.h), which says: the NIC that sends it, the source that it
 * bears, and the color. No byte is added. The receiving mediator puts the source back before the
 * guest sees the frame.
 *
 *     natural   no alias     outside an epoch
 *     white     even alias   in an epoch, before the sender's cut; counted
 *     red       odd alias    in an epoch, after the sender's cut
 *
 * The color is the hop's: a member that forwards a frame of another gives it a color of its own.
 *
 * Sources. A guest may send with any source MAC: containers, bonds, virtual routers, stations
 * behind a bridge. The mediator learns those of each NIC; PREPARED lists them, and INSTALL gives
 * each an alias.
 *
 * Frames that wait. From ARM until coloring ends, some frames cannot carry a color, and are held:
 * to a group, since non-members see them too; with a source that has no alias; and to an address
 * that is not known to be a member's or a non-member's. So no natural frame of a member can cross a
 * cut. Those that wait at the cut are recorded with the direction HS_FROM_GUEST, and are sent after
 * a restore. Unicast frames may overtake those to groups (IEEE 802.1Q keeps order per source and
 * destination only); frames of a pair of addresses keep their order.
 *
 * Frames from and to non-members are never changed. Those that bear another member's IP address
 * have passed, or will pass, through a router that is no member: they are counted.
 *
 * Recorded frames (channel state): after our cut, until the channels are closed, frames that a
 * member sent before its cut. Frames held until our cut count as received after it.
 *
 * Bounds: the record (64 MiB) and the frames held in each direction (64 MiB each) are bounded, so
 * that no guest can exhaust the host. A frame beyond the record's bound is delivered, but counted
 * in `unrecorded` and in `lost`, since a restored guest misses it. A frame beyond the bound of held
 * frames is dropped, as by a full receive ring, and counted in `dropped`.
 */
#ifndef HOTSNAP_MEDIATOR_H
#define HOTSNAP_MEDIATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hotsnap/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hs_mediator hs_mediator;

typedef enum hs_direction {
    HS_FROM_GUEST = 0, /* the guest sends */
    HS_TO_GUEST = 1,   /* the guest is about to receive */
} hs_direction;

typedef enum hs_verdict {
    HS_PASS = 0, /* deliver now (the frame may have been recolored in place) */
    /* The mediator keeps a copy, which hs_mediator_next_released() gives back, or drops it. */
    HS_HOLD = 1,
    /*
     * As HS_HOLD, and this is the first red frame between hs_mediator_armed() and our cut: the
     * caller must take the transient snapshot as soon as it can.
     */
    HS_HOLD_AND_CUT = 2,
    /* As HS_HOLD, and frames are ready for release. */
    HS_HOLD_AND_RELEASE = 3,
} hs_verdict;

typedef struct hs_frame {
    uint32_t nic; /* index given by hs_mediator_add_nic */
    hs_direction direction;
    const uint8_t *data; /* starts with `vnet_header_size` bytes of virtio-net header */
    size_t size;
    size_t vnet_header_size; /* 0, 10 or 12 */
    uint32_t queue;          /* of the NIC: that it was sent through, or came in; from 0 */
} hs_frame;

/*
 * Counters, as in base.h: X(name) for each, all uint64_t, of this epoch.
 *   white_sent, white_received  segments
 *   red_sent, red_received      frames
 *   held             frames to the guest held until our cut
 *   waited_group, waited_source, waited_destination
 *                    frames from the guest that waited until coloring ended, by reason
 *   held_us_max, waited_group_us_max, waited_source_us_max, waited_destination_us_max
 *                    the longest of those times, in microseconds
 *   recorded         frames of channel state
 *   recorded_from_guest  those of them that were held on their way out
 *   recorded_bytes   bytes of all of them
 *   uncolored        frames recorded without a color: sent before the sender was armed, if a member
 *                    sent them
 *   unmarked         NICs of others whose marks were due and did not come in time: what they sent
 *                    without a color before their cut may be missing; at the close
 *   routed_sent, routed_received
 *                    frames between members by way of a router that is no member, which the guest
 *                    sent to it or received from it, until the channels were closed
 *   lost             white segments declared lost, and unrecorded frames; at the close
 *   on_the_fly       red frames that arrived before our cut
 *   unrecorded       channel state beyond the record's bound
 *   announced        addresses beside the NICs' own whose place is told at a restore
 *   dropped          frames beyond the bound of held frames, forged, or undelivered
 */
#define HS_MEDIATOR_COUNTERS(X)                                                                    \
    X(white_sent)                                                                                  \
    X(white_received)                                                                              \
    X(red_sent)                                                                                    \
    X(red_received)                                                                                \
    X(held)                                                                                        \
    X(held_us_max)                                                                                 \
    X(waited_group)                                                                                \
    X(waited_group_us_max)                                                                         \
    X(waited_source)                                                                               \
    X(waited_source_us_max)                                                                        \
    X(waited_destination)                                                                          \
    X(waited_destination_us_max)                                                                   \
    X(recorded)                                                                                    \
    X(recorded_from_guest)                                                                         \
    X(recorded_bytes)                                                                              \
    X(uncolored)                                                                                   \
    X(unmarked)                                                                                    \
    X(routed_sent)                                                                                 \
    X(routed_received)                                                                             \
    X(lost)                                                                                        \
    X(on_the_fly)                                                                                  \
    X(unrecorded)                                                                                  \
    X(announced)                                                                                   \
    X(dropped)

typedef struct hs_mediator_stats {
    size_t struct_size; /* in: sizeof(hs_mediator_stats) */
    HS_MEDIATOR_COUNTERS(HS_COUNTER_FIELD)
} hs_mediator_stats;

/*
 * No function lets an exception out. When memory is out: new returns NULL; a function that returns
 * text returns NULL; add_nic returns UINT32_MAX; a function that reports errors reports that one; a
 * frame due to be held is dropped, and a frame due to be recorded is not recorded, both counted as
 * if the bound had been reached. (Not so where JSON is read or written: the library for it needs
 * memory to free memory, and ends the program.)
 */
hs_mediator *hs_mediator_new(void);
void hs_mediator_free(hs_mediator *m);

/*
 * A NIC of this member; returns its index, the lowest free one. `name` is the netdev's id. A NIC
 * that comes back in its former place has not forgotten its sources. `queues`: pairs of one queue
 * to the guest and one from it.
 */
uint32_t hs_mediator_add_nic(hs_mediator *m, const char *name, const uint8_t mac[6],
                             size_t vnet_header_size, uint32_t queues);
void hs_mediator_remove_nic(hs_mediator *m, uint32_t nic);
/*
 * This member's NICs as JSON, with the sources that they have sent for in the last five minutes, at
 * most 256 each, and the IP addresses that they have claimed, at most 64 each:
 * [{"nic":"net0","mac":"52:54:..","sources":[..],"complete":true,"addresses":["10.0.0.1"]}]; free
 * with hs_string_free.
 */
char *hs_mediator_nics_json(hs_mediator *m);

/*
 * INSTALL: the epoch and the members' MACs. Nothing is colored yet; colored frames are understood
 * from here on. `members_json`: [{"name":"db","nics":[..]}, ...], the NICs as above, with this
 * member among them. Fails on a MAC that two NICs share.
 * `coloring` false: frames pass untouched and are not held (negative control).
 */
bool hs_mediator_prepare(hs_mediator *m, uint64_t epoch, const char *self_name,
                         const char *members_json, bool coloring, char **error);
/*
 * After it: makes probes ready for release, which tell the other members that they hear us, and
 * whether the network lets our aliases through.
 */
void hs_mediator_probe(hs_mediator *m);
/* ARM: every member understands colors now; this one turns white, and counting begins. */
void hs_mediator_start_coloring(hs_mediator *m);
/*
 * Memory is protected: a cut can be taken from here on. A red frame may have come earlier, since
 * another member may be armed, and cut, before us, and since a frame can be forged. It waits, with
 * all frames behind it. Returns whether one waits; then take the cut as after HS_HOLD_AND_CUT.
 */
bool hs_mediator_armed(hs_mediator *m);
/*
 * The cut, called inside the pause: white turns red, recording of channel state begins, and the
 * held frames to the guest become ready for release (deliver them after the resume).
 */
void hs_mediator_cut(hs_mediator *m);
/*
 * After it: makes marks ready for release, which tell the other members that all that we had sent
 * before our cut has come.
 */
void hs_mediator_mark(hs_mediator *m);
/* White segments sent by pair, for TRANSIENT_SNAP_FIN: {"srcmac>dstmac":N,...}. After the cut. */
char *hs_mediator_white_sent_json(hs_mediator *m);
/*
 * ALL_TRANSIENT_SNAP_FIN: the segments that the other members had sent to us, same form. A channel
 * is complete once as many have arrived, or a red frame of its sender (frames of a pair keep
 * order, unless a NIC has several queues: then only the number counts). `marks_json`, same form,
 * {"theirs>ours":1,..}: the NICs whose marks are due here. A mark is the last that a NIC has sent
 * before its cut, so none is still to come when all are there, not even one without a color.
 */
bool hs_mediator_expect(hs_mediator *m, const char *expected_json, const char *marks_json,
                        char **error);
/*
 * A mark that came in one queue of a NIC says nothing about its others: it counts once each of them
 * has been empty (network/marks.h). While the first of these returns true, the caller looks at the
 * queues, at once and after each frame to the guest, and calls the second for each queue that holds
 * no frame which hs_mediator_frame has not seen. That may complete the channels.
 */
bool hs_mediator_awaits_empty(hs_mediator *m);
void hs_mediator_queue_empty(hs_mediator *m, uint32_t nic, uint32_t queue);
bool hs_mediator_channels_complete(hs_mediator *m);
/* Gives up waiting: missing segments are declared lost. Recording ends here (or by completion). */
void hs_mediator_close_channels(hs_mediator *m);
/* Coloring ends: frames go natural, held broadcasts are ready for release. */
void hs_mediator_end_coloring(hs_mediator *m);
/* Epoch over or aborted, in any state: all held frames are ready for release, in order. */
void hs_mediator_reset(hs_mediator *m);

/*
 * One frame. `data` of hs_frame is only read; the source MAC with which it must go on is returned
 * in `source` (the caller patches bytes vnet_header_size + 6 to + 11 of its own copy, or of the
 * iovec, when they differ; it leaves a frame alone that is too short to have them). now_ns: host
 * realtime clock. To be called for every frame, in an epoch or not: sources are learned from them.
 */
hs_verdict hs_mediator_frame(hs_mediator *m, const hs_frame *frame, int64_t now_ns,
                             uint8_t source[6]);

/*
 * The same for a frame that lies elsewhere, in guest memory for one: `data` holds its first
 * `head_size` bytes only, all of them or at least HS_FRAME_HEAD. When the rest is needed, `copy` is
 * called, before this returns and at most once: it writes the bytes from `head_size` on to `to`,
 * which has room for them. The head is never read again, so the bytes kept are the bytes judged.
 */
#define HS_FRAME_HEAD 256
typedef void (*hs_copy_rest)(void *opaque, uint8_t *to);
hs_verdict hs_mediator_frame_head(hs_mediator *m, const hs_frame *frame, size_t head_size,
                                  hs_copy_rest copy, void *opaque, int64_t now_ns,
                                  uint8_t source[6]);
/*
 * Whether a NIC's own address is in use there, and not at another NIC that has sent with it since
 * (a bond, a virtual router). Where it is not, QEMU must not announce it.
 */
bool hs_mediator_has_own_address(hs_mediator *m, uint32_t nic);
/*
 * If so, the frame that tells switches where it is. `frame->data` lives until the next call of this
 * function or of hs_mediator_next_released().
 */
bool hs_mediator_announce_own(hs_mediator *m, uint32_t nic, hs_frame *frame);
/* A frame of the record that is played back: who sent it is known from then on. */
void hs_mediator_played(hs_mediator *m, const hs_frame *frame, int64_t now_ns);
/* Counts frames of hs_mediator_next_released that could not be delivered. */
void hs_mediator_undelivered(hs_mediator *m, uint64_t frames);

/*
 * Takes the next frame that is ready for release; false when none. The frame is already recolored
 * where due. The mediator owns it; it is valid until the next call on the mediator. While frames
 * are pending in a direction, hs_mediator_frame holds later ones to keep order: drain in a loop.
 */
bool hs_mediator_next_released(hs_mediator *m, hs_frame *frame, int64_t now_ns);

/*
 * The VM runs again after the cut, and has sent no frame since. From here on the mediator notes to
 * which members the guest sends, and when first, for five seconds: hints for the order in which a
 * restore starts them. now_ns: as above. Not to be called while the VM is stopped: times must not
 * be longer than those for which the guest has run.
 */
void hs_mediator_begin_contacts(hs_mediator *m, int64_t now_ns);
/*
 * What was noted until now, {"until_us":N,"first_us":{"db":N,..}} (docs/formats/bundle.md); free
 * with hs_string_free. NULL when it was not begun in this epoch, or memory is out.
 */
char *hs_mediator_contacts_json(hs_mediator *m, int64_t now_ns);

/*
 * Channel state as files: `pcap_path` (pcap, nanoseconds, LINKTYPE_ETHERNET) and `vnet_path` (see
 * docs/formats/channel.md: NIC index, direction and virtio-net header of each frame). Written even
 * when empty. Files must not exist; fsynced.
 */
bool hs_mediator_write_channel(hs_mediator *m, const char *pcap_path, const char *vnet_path,
                               char **error);

void hs_mediator_get_stats(hs_mediator *m, hs_mediator_stats *stats);

/* Playback: reads both files; frames come out in order. */
typedef struct hs_playback hs_playback;
hs_playback *hs_playback_open(const char *pcap_path, const char *vnet_path, char **error);
size_t hs_playback_count(hs_playback *p);
/*
 * frame->data is valid until the next call; frame->nic is the recorded NIC index. A frame with the
 * direction HS_FROM_GUEST is to be sent to the network.
 */
bool hs_playback_next(hs_playback *p, hs_frame *frame);
/*
 * The same for those frames of the record that tell switches where the member's addresses are. They
 * may leave before any member runs, too.
 */
bool hs_playback_next_announcement(hs_playback *p, hs_frame *frame);
void hs_playback_free(hs_playback *p);

#ifdef __cplusplus
}
#endif
#endif
