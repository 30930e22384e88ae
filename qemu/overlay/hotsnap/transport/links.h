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

#include <hotsnap/coordinator.h>

typedef struct HotsnapConnect HotsnapConnect;

typedef struct HotsnapLinks {
    hs_coordinator *coordinator; /* is told of events on connections */
    AioContext *ctx;
    GMainContext *gctx;
    void (*dispatch)(void *opaque); /* is called after that */
    void *opaque;
    QIONetListener *listener;
    GHashTable *links;           /* hs_link -> HotsnapLink */
    hs_link next_link;
    QLIST_HEAD(, HotsnapConnect) connects; /* connect.c */
} HotsnapLinks;

/* Main loop. */
HotsnapLinks *hotsnap_links_new(hs_coordinator *coordinator, AioContext *ctx,
                                GMainContext *gctx,
                                void (*dispatch)(void *opaque), void *opaque);

/* Main loop. @address is unix:PATH or tcp:HOST:PORT. */
bool hotsnap_links_listen(HotsnapLinks *ls, const char *address,
                          Error **errp);

void hotsnap_links_free(HotsnapLinks *ls);

/* A connection exists; @address is the one it was made to, or NULL. */
void hotsnap_link_new(HotsnapLinks *ls, QIOChannelSocket *ioc,
                      const char *address);

/* The actions HS_DO_SEND and HS_DO_CLOSE. */
void hotsnap_links_send(HotsnapLinks *ls, hs_link link, const uint8_t *data,
                        size_t size);
void hotsnap_links_close(HotsnapLinks *ls, hs_link link);

#endif
