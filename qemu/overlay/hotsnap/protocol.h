/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The cluster protocol of this member: the coordinator (hotsnap/coordinator.h)
 * with its connections and its timer, in an iothread of its own, so that a
 * busy main loop delays no message.
 */
#ifndef HOTSNAP_PROTOCOL_H
#define HOTSNAP_PROTOCOL_H

#include "qom/object.h"
#include "transport/tls.h"

#include <hotsnap/coordinator.h>
#include <hotsnap/member.h>

typedef struct HotsnapProtocol HotsnapProtocol;

/* All in the iothread. */
typedef struct HotsnapProtocolOps {
    /* Local work is due; taken. */
    void (*work)(void *opaque, hs_work *work);
    /* HS_SAY_...: for the user of this member. @text lives in the call. */
    void (*say)(void *opaque, hs_action_kind kind, const char *text,
                bool failed);
    /*
     * May the member with this distinguished name connect? The answer is due
     * by hotsnap_protocol_authorized().
     */
    void (*authorize)(void *opaque, hs_link link, const char *identity);
} HotsnapProtocolOps;

/* Main loop: listens from now on. @tls must outlive it. */
HotsnapProtocol *hotsnap_protocol_new(const char *name, const char *listen,
                                      const HotsnapTls *tls,
                                      const HotsnapProtocolOps *ops,
                                      void *opaque, Error **errp);

/* Main loop: nothing is heard or said any more. NULL is allowed. */
void hotsnap_protocol_free(HotsnapProtocol *p);

int hotsnap_protocol_thread_id(HotsnapProtocol *p);

/* Any thread: answers of the local side, in their order. Takes @event. */
void hotsnap_protocol_event(HotsnapProtocol *p, hs_event *event);

/* Main loop. @refusal: why not; NULL: it may. */
void hotsnap_protocol_authorized(HotsnapProtocol *p, hs_link link,
                                 const char *refusal);

/* Main loop: this member leads a run from now on, or an error is set. */
bool hotsnap_protocol_snapshot(HotsnapProtocol *p, const char *request,
                               Error **errp);
bool hotsnap_protocol_restore(HotsnapProtocol *p, const char *request,
                              Error **errp);

/*
 * Main loop: another duration for the snapshot that this member leads; 0:
 * none. An error is set if it leads none, or the snapshot is ending.
 */
bool hotsnap_protocol_set_duration(HotsnapProtocol *p, uint64_t duration_us,
                                   Error **errp);

/* Main loop: the user cancels that run. */
void hotsnap_protocol_cancel(HotsnapProtocol *p);

#endif
