/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "handshake.h"
#include "crypto/tlssession.h"
#include "qapi/error.h"
#include "qemu/timer.h"

/* As long as HELLO may take after it. A handshake takes milliseconds. */
#define LIMIT_MS 10000

struct HotsnapHandshake {
    QIOChannelTLS *tls;
    QIOChannel *socket;
    GMainContext *gctx;
    GSource *watch;
    QEMUTimer *limit;
    bool secure;
    HotsnapHandshakeDone *done;
    void *opaque;
};

static void drop_watch(HotsnapHandshake *h)
{
    if (h->watch) {
        g_source_destroy(h->watch);
        g_source_unref(h->watch);
        h->watch = NULL;
    }
}

static gboolean ready(QIOChannel *ioc, GIOCondition condition,
                      gpointer opaque);

static void step(HotsnapHandshake *h)
{
    QCryptoTLSSession *session = qio_channel_tls_get_session(h->tls);
    Error *err = NULL;
    int status = qcrypto_tls_session_handshake(session, &err);

    if (status == QCRYPTO_TLS_HANDSHAKE_SENDING ||
        status == QCRYPTO_TLS_HANDSHAKE_RECVING) {
        h->watch = qio_channel_add_watch_source(
            h->socket,
            status == QCRYPTO_TLS_HANDSHAKE_SENDING ? G_IO_OUT : G_IO_IN,
            ready, h, NULL, h->gctx);
        return;
    }
    if (status == QCRYPTO_TLS_HANDSHAKE_COMPLETE) {
        h->secure = true;
        qcrypto_tls_session_check_credentials(session, &err);
    }
    h->done(h->opaque, h->secure, err ? error_get_pretty(err) : NULL);
    error_free(err);
}

static gboolean ready(QIOChannel *ioc, GIOCondition condition, gpointer opaque)
{
    HotsnapHandshake *h = opaque;

    drop_watch(h);
    step(h);
    return G_SOURCE_REMOVE;
}

static void too_late(void *opaque)
{
    HotsnapHandshake *h = opaque;

    drop_watch(h);
    h->done(h->opaque, h->secure, "no end of the TLS handshake within 10 s");
}

HotsnapHandshake *hotsnap_handshake_new(QIOChannelTLS *tls, QIOChannel *socket,
                                        AioContext *ctx, GMainContext *gctx,
                                        HotsnapHandshakeDone *done,
                                        void *opaque)
{
    HotsnapHandshake *h = g_new0(HotsnapHandshake, 1);

    h->tls = tls;
    h->socket = socket;
    h->gctx = gctx;
    h->done = done;
    h->opaque = opaque;
    h->limit = aio_timer_new(ctx, QEMU_CLOCK_REALTIME, SCALE_MS, too_late, h);
    timer_mod(h->limit, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + LIMIT_MS);
    return h;
}

void hotsnap_handshake_start(HotsnapHandshake *h)
{
    step(h);
}

void hotsnap_handshake_free(HotsnapHandshake *h)
{
    if (h) {
        drop_watch(h);
        timer_free(h->limit);
        g_free(h);
    }
}
