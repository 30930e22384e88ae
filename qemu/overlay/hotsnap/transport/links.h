/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connections between members. Functions are for the member's iothread unless
 * a comment names another thread.
 */
#ifndef HOTSNAP_TRANSPORT_LINKS_H
#define HOTSNAP_TRANSPORT_LINKS_H

#include "block/aio.h"
#include "io/channel-socket.h"
#include "io/net-listener.h"
#include "qemu/queue.h"
#include "refusals.h"
#include "tls.h"

#include <hotsnap/coordinator.h>

typedef struct HotsnapConnect HotsnapConnect;

typedef struct HotsnapLinksOps {
    /* The coordinator was told of an event. */
    void (*dispatch)(void *opaque);
    /* May it connect? The answer comes by hotsnap_links_authorized(). */
    void (*authorize)(void *opaque, hs_link link, const char *identity);
} HotsnapLinksOps;

typedef struct HotsnapLinks {
    hs_coordinator *coordinator; /* is told of events on connections */
    AioContext *ctx;
    GMainContext *gctx;
    const HotsnapLinksOps *ops;
    void *opaque;
    const HotsnapTls *tls;
    HotsnapRefusals refusals;
    QIONetListener *listener;
    GHashTable *links;           /* hs_link -> HotsnapLink */
    hs_link next_link;
    QLIST_HEAD(, HotsnapConnect) connects; /* connect.c */
} HotsnapLinks;

/* Main loop. @tls must outlive the links. */
HotsnapLinks *hotsnap_links_new(hs_coordinator *coordinator, AioContext *ctx,
                                GMainContext *gctx, const HotsnapTls *tls,
                                const HotsnapLinksOps *ops, void *opaque);

/* Main loop. @address is unix:PATH or tcp:HOST:PORT. */
bool hotsnap_links_listen(HotsnapLinks *ls, const char *address,
                          Error **errp);

void hotsnap_links_free(HotsnapLinks *ls);

/*
 * A connection exists. @address is the one it was made to, to reach the member
 * @name; both are NULL if it was accepted. The caller dispatches.
 */
void hotsnap_link_new(HotsnapLinks *ls, QIOChannelSocket *ioc,
                      const char *address, const char *name);

/* @refusal: why not; NULL: it may. */
void hotsnap_links_authorized(HotsnapLinks *ls, hs_link link,
                              const char *refusal);

/* The actions HS_DO_SEND and HS_DO_CLOSE; @fault: of the other side, or "". */
void hotsnap_links_send(HotsnapLinks *ls, hs_link link, const uint8_t *data,
                        size_t size);
void hotsnap_links_close(HotsnapLinks *ls, hs_link link, const char *fault);

#endif
