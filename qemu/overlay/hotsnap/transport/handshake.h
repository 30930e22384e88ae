/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A TLS handshake, which a member's iothread goes through without waiting.
 *
 * qio_channel_tls_handshake() would do but for its end: it removes the source
 * of a handshake that is given up from the main loop's context, whatever the
 * context that it was added to.
 */
#ifndef HOTSNAP_TRANSPORT_HANDSHAKE_H
#define HOTSNAP_TRANSPORT_HANDSHAKE_H

#include "block/aio.h"
#include "io/channel-tls.h"

typedef struct HotsnapHandshake HotsnapHandshake;

/*
 * @error says why the other side is not to be trusted; NULL: its credentials
 * are good. @secure: what is sent on the channel reaches the other side, be
 * it trusted or not. May free the handshake. It may be called again, when the
 * time is up and the handshake has not been freed.
 */
typedef void HotsnapHandshakeDone(void *opaque, bool secure,
                                  const char *error);

/* @tls is over @socket, and must outlive the handshake. */
HotsnapHandshake *hotsnap_handshake_new(QIOChannelTLS *tls, QIOChannel *socket,
                                        AioContext *ctx, GMainContext *gctx,
                                        HotsnapHandshakeDone *done,
                                        void *opaque);

/* Once; may call @done. */
void hotsnap_handshake_start(HotsnapHandshake *h);

void hotsnap_handshake_free(HotsnapHandshake *h);

#endif
