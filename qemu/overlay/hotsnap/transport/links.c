/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The member's sockets. All code runs in the member's iothread, but for
 * hotsnap_links_listen(), which runs before that thread knows of them.
 *
 * Sockets are non-blocking; bytes that cannot be written at once wait in the
 * link's queue for G_IO_OUT. Connecting does not block either: connect.c.
 *
 * With TLS, a link is up once the other side has proved who it is. Until then
 * the coordinator does not know of it.
 *
 * A client that can connect must not be able to exhaust the host. So bounds
 * are set to the number of inbound links, to the bytes that a client has not
 * read, and, by the coordinator, to those of an unfinished message.
 */
#include "qemu/osdep.h"
#include "address.h"
#include "../clock.h"
#include "crypto/tlssession.h"
#include "handshake.h"
#include "io/channel-socket.h"
#include "links.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-sockets.h"
#include "qemu/cutils.h"
#include "qemu/sockets.h"
#include "qemu/units.h"
#include "../trace.h"

/* A peer needs one; the others are for connections that it will refuse. */
#define INBOUND_MAX 32
#define BACKLOG 16
/* Two of the largest messages may be on the way, and some words. */
#define OUT_MAX (33 * MiB)

typedef struct HotsnapLink {
    HotsnapLinks *links;
    hs_link id;
    char *address;        /* that we connected to, or NULL */
    QIOChannel *ioc;             /* a socket, or TLS over one */
    QIOChannelTLS *tls;          /* is ioc then */
    HotsnapHandshake *handshake; /* until the link is up */
    bool heard;                  /* the other side has said something */
    GSource *read_watch;
    GSource *write_watch;
    GByteArray *out;
    bool closing;         /* close once `out` is empty */
} HotsnapLink;

static void link_free(gpointer opaque)
{
    HotsnapLink *l = opaque;

    if (l->read_watch) {
        g_source_destroy(l->read_watch);
        g_source_unref(l->read_watch);
    }
    if (l->write_watch) {
        g_source_destroy(l->write_watch);
        g_source_unref(l->write_watch);
    }
    hotsnap_handshake_free(l->handshake);
    qio_channel_close(l->ioc, NULL);
    object_unref(OBJECT(l->ioc));
    g_byte_array_unref(l->out);
    g_free(l->address);
    g_free(l);
}

static void link_lost(HotsnapLink *l, const char *reason)
{
    HotsnapLinks *ls = l->links;
    hs_link id = l->id;
    g_autofree char *address = g_strdup(l->address);
    g_autofree char *text = NULL;
    bool tell = !l->closing;

    /* Such is the answer of a TLS listener to what it takes for noise. */
    text = g_strconcat(reason,
                       address && !strstart(address, "unix:", NULL) &&
                       !l->heard && !l->tls
                       ? ", without a word; if it listens with tls-creds, "
                         "give this member tls-creds-client" : NULL, NULL);
    trace_hotsnap_link(id, text);
    g_hash_table_remove(ls->links, &l->id);
    if (tell) {
        hs_coordinator_link_down(ls->coordinator, id, address, text,
                                 hotsnap_now_us());
        ls->ops->dispatch(ls->opaque);
    }
}

/* The connection that @l has accepted is not kept. */
static void link_report(HotsnapLink *l, const char *reason)
{
    g_autoptr(SocketAddress) addr = NULL;
    g_autofree char *from = NULL;
    QIOChannel *socket = l->tls ? l->tls->master : l->ioc;

    addr = qio_channel_socket_get_remote_address(QIO_CHANNEL_SOCKET(socket),
                                                 NULL);
    if (addr && addr->type == SOCKET_ADDRESS_TYPE_INET) {
        from = socket_uri(addr);
    }
    hotsnap_refused(&l->links->refusals, from ?: "a Unix socket", reason);
}

static gboolean link_readable(QIOChannel *ioc, GIOCondition condition,
                              gpointer opaque)
{
    HotsnapLink *l = opaque;
    HotsnapLinks *ls = l->links;
    uint8_t buf[16384];
    struct iovec iov = { .iov_base = buf, .iov_len = sizeof(buf) };
    Error *err = NULL;
    /*
     * The end of the stream has no meaning to the protocol but the loss of
     * the connection: so it needs no proof, as TLS has one.
     */
    ssize_t n = qio_channel_readv_full(l->ioc, &iov, 1, NULL, NULL,
                                       QIO_CHANNEL_READ_FLAG_RELAXED_EOF,
                                       &err);

    if (n == QIO_CHANNEL_ERR_BLOCK) {
        return G_SOURCE_CONTINUE;
    }
    if (n <= 0) {
        link_lost(l, err ? error_get_pretty(err) :
                  "the other side closed the connection");
        error_free(err);
        return G_SOURCE_REMOVE;
    }
    l->heard = true;
    if (!l->closing) {
        hs_coordinator_bytes(ls->coordinator, l->id, buf, n, hotsnap_now_us());
        /* May free the link and its watch. */
        ls->ops->dispatch(ls->opaque);
    }
    return G_SOURCE_CONTINUE;
}

static gboolean link_writable(QIOChannel *ioc, GIOCondition condition,
                              gpointer opaque);

/*
 * Returns false if the link is gone. TLS takes no more than 16 KiB at a time:
 * what is written leaves the queue once, not at each write.
 */
static bool link_flush(HotsnapLink *l)
{
    size_t written = 0;

    while (written < l->out->len) {
        Error *err = NULL;
        ssize_t n = qio_channel_write(l->ioc, (char *)l->out->data + written,
                                      l->out->len - written, &err);
        if (n == QIO_CHANNEL_ERR_BLOCK) {
            g_byte_array_remove_range(l->out, 0, written);
            if (!l->write_watch) {
                l->write_watch = qio_channel_add_watch_source(
                    l->ioc, G_IO_OUT, link_writable, l, NULL, l->links->gctx);
            }
            return true;
        }
        if (n < 0 && !l->closing) {
            /*
             * The other side has closed. Its last words may wait to be read,
             * such as that the snapshot is complete: reading goes on to the
             * end of the stream, which comes after them.
             */
            trace_hotsnap_link(l->id, error_get_pretty(err));
            error_free(err);
            g_byte_array_set_size(l->out, 0);
            qio_channel_shutdown(l->ioc, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
            return true;
        }
        if (n < 0) {
            link_lost(l, error_get_pretty(err));
            error_free(err);
            return false;
        }
        written += n;
    }
    g_byte_array_set_size(l->out, 0);
    if (l->closing) {
        g_hash_table_remove(l->links->links, &l->id);
        return false;
    }
    return true;
}

static gboolean link_writable(QIOChannel *ioc, GIOCondition condition,
                              gpointer opaque)
{
    HotsnapLink *l = opaque;

    g_source_destroy(l->write_watch);
    g_source_unref(l->write_watch);
    l->write_watch = NULL;
    link_flush(l);
    return G_SOURCE_REMOVE;
}

static QCryptoTLSCreds *link_creds(HotsnapLink *l)
{
    return l->address ? l->links->tls->client : l->links->tls->server;
}

static void link_up(HotsnapLink *l)
{
    HotsnapLinks *ls = l->links;
    g_auto(GStrv) names = NULL;

    if (l->tls && !hotsnap_tls_is_psk(link_creds(l))) {
        names = qcrypto_tls_session_get_peer_names(
            qio_channel_tls_get_session(l->tls));
        names = names ?: g_new0(char *, 1); /* nobody's */
    }
    g_clear_pointer(&l->handshake, hotsnap_handshake_free);
    l->read_watch = qio_channel_add_watch_source(l->ioc, G_IO_IN | G_IO_HUP,
                                                 link_readable, l, NULL,
                                                 ls->gctx);
    hs_coordinator_link_up_as(ls->coordinator, l->id, !l->address, l->address,
                              (const char *const *)names, hotsnap_now_us());
}

/*
 * It will not be up. With @secure, the coordinator can still tell the other
 * side why; the link is closed after that.
 */
static void link_refuse(HotsnapLink *l, bool secure, const char *reason)
{
    HotsnapLinks *ls = l->links;

    g_clear_pointer(&l->handshake, hotsnap_handshake_free);
    if (secure) {
        hs_coordinator_link_refused(ls->coordinator, l->id, !l->address,
                                    l->address, reason, hotsnap_now_us());
        return;
    }
    if (l->address) {
        hs_coordinator_link_down(ls->coordinator, 0, l->address, reason,
                                 hotsnap_now_us());
    } else {
        link_report(l, reason);
    }
    trace_hotsnap_link(l->id, reason);
    g_hash_table_remove(ls->links, &l->id);
}

static void handshake_done(void *opaque, bool secure, const char *error)
{
    HotsnapLink *l = opaque;
    HotsnapLinks *ls = l->links;
    g_autofree char *identity = NULL;
    g_autofree char *reason = NULL;

    if (error && secure) {
        /* Both sides read it. */
        reason = g_strdup_printf("the certificate of the side that %s is "
                                 "refused: %s",
                                 l->address ? "listens" : "connects", error);
    } else if (error && hotsnap_tls_is_psk(link_creds(l))) {
        reason = g_strdup_printf("%s; have both sides the same key?", error);
    }
    if (error) {
        link_refuse(l, secure, reason ?: error);
    } else if (!l->address && ls->tls->authz) {
        identity = qcrypto_tls_session_get_peer_name(
            qio_channel_tls_get_session(l->tls));
        ls->ops->authorize(ls->opaque, l->id, identity ?: "");
    } else {
        link_up(l);
    }
    ls->ops->dispatch(ls->opaque);
}

void hotsnap_links_authorized(HotsnapLinks *ls, hs_link link,
                              const char *refusal)
{
    HotsnapLink *l = g_hash_table_lookup(ls->links, &link);

    if (!l || !l->handshake) {
        return; /* the time was up before */
    }
    if (refusal) {
        g_autofree char *reason = g_strdup_printf(
            "the certificate of the side that connects is refused: %s",
            refusal);

        link_refuse(l, true, reason);
    } else {
        link_up(l);
    }
    ls->ops->dispatch(ls->opaque);
}

static void link_begin_tls(HotsnapLink *l, const char *name)
{
    HotsnapLinks *ls = l->links;
    QIOChannel *socket = l->ioc;
    Error *err = NULL;

    l->tls = hotsnap_tls_channel(ls->tls, socket, name, &err);
    if (!l->tls) {
        link_refuse(l, false, error_get_pretty(err));
        error_free(err);
        return;
    }
    l->ioc = QIO_CHANNEL(l->tls);
    l->handshake = hotsnap_handshake_new(l->tls, socket, ls->ctx, ls->gctx,
                                         handshake_done, l);
    object_unref(OBJECT(socket)); /* the channel has its own reference */
    hotsnap_handshake_start(l->handshake);
}

void hotsnap_link_new(HotsnapLinks *ls, QIOChannelSocket *ioc,
                      const char *address, const char *name)
{
    HotsnapLink *l = g_new0(HotsnapLink, 1);

    l->links = ls;
    l->id = ++ls->next_link;
    l->address = g_strdup(address);
    l->ioc = QIO_CHANNEL(ioc);
    object_ref(OBJECT(ioc));
    l->out = g_byte_array_new();
    qio_channel_set_name(QIO_CHANNEL(ioc), "hotsnap-link");
    qio_channel_set_blocking(QIO_CHANNEL(ioc), false, NULL);
    qio_channel_set_delay(QIO_CHANNEL(ioc), false);
    g_hash_table_insert(ls->links, &l->id, l);
    trace_hotsnap_link(l->id, address ?: "inbound");
    if (link_creds(l) && ioc->localAddr.ss_family != AF_UNIX) {
        link_begin_tls(l, name);
    } else {
        link_up(l);
    }
}

static gboolean link_is_closing(gpointer key, gpointer value, gpointer opaque)
{
    HotsnapLink *l = value;

    return l->closing;
}

/*
 * A caller without room is refused by closing: it sees its connection lost. A
 * link that only waits for its last words to be read has no right to a place,
 * and of those in a handshake the oldest makes way: else strangers could keep
 * all members out. (A handshake takes milliseconds.)
 */
static bool link_has_room(HotsnapLinks *ls)
{
    GHashTableIter iter;
    gpointer value;
    HotsnapLink *oldest = NULL;
    unsigned inbound = 0;

    if (g_hash_table_size(ls->links) < INBOUND_MAX) {
        return true;
    }
    g_hash_table_foreach_remove(ls->links, link_is_closing, NULL);
    g_hash_table_iter_init(&iter, ls->links);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        HotsnapLink *l = value;

        inbound += !l->address;
        if (!l->address && l->handshake && (!oldest || l->id < oldest->id)) {
            oldest = l;
        }
    }
    if (inbound >= INBOUND_MAX && oldest) {
        link_refuse(oldest, false, "too many connections, and this one has "
                    "not proved yet who it is");
        return true;
    }
    return inbound < INBOUND_MAX;
}

static void link_accepted(QIONetListener *listener, QIOChannelSocket *ioc,
                          gpointer opaque)
{
    HotsnapLinks *ls = opaque;

    if (!link_has_room(ls)) {
        trace_hotsnap_link(0, "too many connections");
        return; /* the listener drops its reference, which closes it */
    }
    hotsnap_link_new(ls, ioc, NULL, NULL);
    ls->ops->dispatch(ls->opaque);
}

void hotsnap_links_send(HotsnapLinks *ls, hs_link link, const uint8_t *data,
                       size_t size)
{
    HotsnapLink *l = g_hash_table_lookup(ls->links, &link);

    if (l && !l->closing) {
        bool idle = !l->out->len;

        if (l->out->len + size > OUT_MAX) {
            link_lost(l, "the other side does not read what it is sent");
            return;
        }
        g_byte_array_append(l->out, data, size);
        if (idle) {
            link_flush(l);
        }
    }
}

void hotsnap_links_close(HotsnapLinks *ls, hs_link link, const char *fault)
{
    HotsnapLink *l = g_hash_table_lookup(ls->links, &link);

    if (l && !l->closing) {
        if (*fault && !l->address) {
            link_report(l, fault);
        }
        l->closing = true;
        if (!l->out->len) {
            g_hash_table_remove(ls->links, &l->id);
        }
    }
}

/*
 * A client that can connect commands this VM, so the socket's file must never
 * exist with a wider mode. A umask() of our own would hold for all threads,
 * and another one could be creating a file. On Linux a Unix socket's file
 * takes the mode that the socket itself has when it is bound.
 */
static bool listen_unix(HotsnapLinks *ls, const char *path, Error **errp)
{
    g_autoptr(QIOChannelSocket) ioc = NULL;
    struct sockaddr_un un = { 0 };
    int fd = qemu_socket(AF_UNIX, SOCK_STREAM, 0);

    hotsnap_unix_sockaddr(path, &un);
    if (fd < 0 || fchmod(fd, 0600) < 0 ||
        (unlink(path) < 0 && errno != ENOENT) ||
        bind(fd, (struct sockaddr *)&un, sizeof(un)) < 0 ||
        listen(fd, BACKLOG) < 0) {
        error_setg_errno(errp, errno, "Cannot listen at '%s'", path);
    } else {
        ioc = qio_channel_socket_new_fd(fd, errp);
    }
    if (!ioc) {
        if (fd >= 0) {
            close(fd);
        }
        return false;
    }
    /* Removes the file when it is closed. */
    qio_channel_set_feature(QIO_CHANNEL(ioc), QIO_CHANNEL_FEATURE_LISTEN);
    qio_net_listener_add(ls->listener, ioc);
    return true;
}

bool hotsnap_links_listen(HotsnapLinks *ls, const char *address,
                          Error **errp)
{
    g_autoptr(SocketAddress) addr = NULL;

    addr = hotsnap_tls_listen_address(ls->tls, address, errp);
    if (!addr) {
        return false;
    }
    ls->listener = qio_net_listener_new();
    qio_net_listener_set_name(ls->listener, "hotsnap-member");
    if (addr->type == SOCKET_ADDRESS_TYPE_UNIX
        ? !listen_unix(ls, addr->u.q_unix.path, errp)
        : qio_net_listener_open_sync(ls->listener, addr, BACKLOG, errp) < 0) {
        return false;
    }
    for (size_t i = 0; i < ls->listener->nsioc; i++) {
        /* A caller may be gone again before its connection is accepted. */
        qio_channel_set_blocking(QIO_CHANNEL(ls->listener->sioc[i]), false,
                                 NULL);
    }
    qio_net_listener_set_client_func_full(ls->listener, link_accepted, ls, NULL,
                                          ls->gctx);
    return true;
}

HotsnapLinks *hotsnap_links_new(hs_coordinator *coordinator, AioContext *ctx,
                                GMainContext *gctx, const HotsnapTls *tls,
                                const HotsnapLinksOps *ops, void *opaque)
{
    HotsnapLinks *ls = g_new0(HotsnapLinks, 1);

    ls->coordinator = coordinator;
    ls->ctx = ctx;
    ls->gctx = gctx;
    ls->tls = tls;
    ls->ops = ops;
    ls->opaque = opaque;
    ls->links = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL,
                                      link_free);
    return ls;
}

void hotsnap_links_free(HotsnapLinks *ls)
{
    if (ls) {
        if (ls->listener) {
            qio_net_listener_disconnect(ls->listener);
            object_unref(OBJECT(ls->listener));
        }
        g_hash_table_unref(ls->links);
        g_free(ls);
    }
}
