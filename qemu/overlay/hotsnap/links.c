/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The member's sockets. All of it runs in the member's iothread, but for
 * hotsnap_links_listen(), which runs before that thread knows of them.
 *
 * Sockets are non-blocking; what cannot be written at once waits in the
 * link's queue for G_IO_OUT. Connecting is non-blocking, too: this thread
 * also owns the heartbeats and hears ABORT. QEMU's own asynchronous connect
 * is a thread that a Unix socket with a full backlog holds for ever, and
 * nothing can end it. So connect() is called again by a timer: it gives
 * EAGAIN while a Unix socket's backlog is full, and EALREADY while a TCP
 * connection is being made. A connection is tried for as long as the
 * coordinator wants it: the coordinator has the deadlines.
 *
 * Whoever can connect must not be able to exhaust the host: the number of
 * inbound links is bounded, what one has not read of our words, and, by the
 * coordinator, what it has sent of an unfinished message.
 */
#include "qemu/osdep.h"
#include "internal.h"
#include "io/channel-socket.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-sockets.h"
#include "qemu/cutils.h"
#include "qemu/sockets.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "trace.h"

/* A peer needs one; the rest is for those that it will refuse. */
#define INBOUND_MAX 32
#define BACKLOG 16
/* Two of the largest messages may be on the way, and some words. */
#define OUT_MAX (33 * MiB)
#define RETRY_FIRST_MS 1
#define RETRY_LAST_MS 50

typedef struct HotsnapLink {
    HotsnapMember *member;
    hs_link id;
    char *address;        /* that we connected to, or NULL */
    QIOChannelSocket *ioc;
    GSource *read_watch;
    GSource *write_watch;
    GByteArray *out;
    bool closing;         /* close once `out` is empty */
} HotsnapLink;

/* A connection that is not there yet. */
struct HotsnapConnect {
    HotsnapMember *member;
    char *address;
    union {
        struct sockaddr any;
        struct sockaddr_un un;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } to;
    socklen_t size;
    int fd;
    QEMUTimer *retry;
    unsigned wait_ms;
    QLIST_ENTRY(HotsnapConnect) next;
};

static bool address_is_loopback(const SocketAddress *addr)
{
    struct in_addr v4;
    struct in6_addr v6;

    if (addr->type != SOCKET_ADDRESS_TYPE_INET) {
        return addr->type == SOCKET_ADDRESS_TYPE_UNIX;
    }
    if (inet_pton(AF_INET, addr->u.inet.host, &v4) == 1) {
        return ntohl(v4.s_addr) >> 24 == 127;
    }
    return inet_pton(AF_INET6, addr->u.inet.host, &v6) == 1 &&
           IN6_IS_ADDR_LOOPBACK(&v6);
}

/*
 * unix:PATH or tcp:HOST:PORT; HOST must be loopback until there is TLS. No
 * name is looked up, as that can take as long as a name server likes:
 * localhost is 127.0.0.1.
 */
static SocketAddress *address_parse(const char *str, Error **errp)
{
    SocketAddress *addr = socket_parse(str, errp);
    unsigned port;

    if (!addr) {
        return NULL;
    }
    if (addr->type == SOCKET_ADDRESS_TYPE_INET &&
        !strcmp(addr->u.inet.host, "localhost")) {
        g_free(addr->u.inet.host);
        addr->u.inet.host = g_strdup("127.0.0.1");
    }
    if (!address_is_loopback(addr)) {
        error_setg(errp, "Address '%s' is neither a Unix socket nor on the "
                   "loopback interface; the control connection is not "
                   "encrypted: use unix:PATH or tcp:127.0.0.1:PORT", str);
    } else if (addr->type == SOCKET_ADDRESS_TYPE_INET &&
               (qemu_strtoui(addr->u.inet.port, NULL, 10, &port) < 0 ||
                port > UINT16_MAX)) {
        error_setg(errp, "'%s' in address '%s' is not a port; use a number "
                   "up to 65535", addr->u.inet.port, str);
    } else if (addr->type == SOCKET_ADDRESS_TYPE_UNIX &&
               strlen(addr->u.q_unix.path) >=
               sizeof(((struct sockaddr_un *)NULL)->sun_path)) {
        error_setg(errp, "The path of '%s' is longer than a Unix socket's can "
                   "be; use a shorter one", str);
    } else {
        return addr;
    }
    qapi_free_SocketAddress(addr);
    return NULL;
}

static void unix_sockaddr(const char *path, struct sockaddr_un *un)
{
    un->sun_family = AF_UNIX;
    pstrcpy(un->sun_path, sizeof(un->sun_path), path);
}

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
    qio_channel_close(QIO_CHANNEL(l->ioc), NULL);
    object_unref(OBJECT(l->ioc));
    g_byte_array_unref(l->out);
    g_free(l->address);
    g_free(l);
}

static void link_lost(HotsnapLink *l, const char *reason)
{
    HotsnapMember *m = l->member;
    hs_link id = l->id;
    g_autofree char *address = g_strdup(l->address);
    bool tell = !l->closing;

    trace_hotsnap_link(id, reason);
    g_hash_table_remove(m->links, &l->id);
    if (tell) {
        hs_coordinator_link_down(m->coordinator, id, address, reason,
                                 hotsnap_now_us());
        hotsnap_dispatch(m);
    }
}

static gboolean link_readable(QIOChannel *ioc, GIOCondition condition,
                              gpointer opaque)
{
    HotsnapLink *l = opaque;
    HotsnapMember *m = l->member;
    uint8_t buf[16384];
    Error *err = NULL;
    ssize_t n = qio_channel_read(ioc, (char *)buf, sizeof(buf), &err);

    if (n == QIO_CHANNEL_ERR_BLOCK) {
        return G_SOURCE_CONTINUE;
    }
    if (n <= 0) {
        link_lost(l, err ? error_get_pretty(err) :
                  "the other side closed the connection");
        error_free(err);
        return G_SOURCE_REMOVE;
    }
    if (!l->closing) {
        hs_coordinator_bytes(m->coordinator, l->id, buf, n, hotsnap_now_us());
        hotsnap_dispatch(m); /* may have freed the link and its watch */
    }
    return G_SOURCE_CONTINUE;
}

static gboolean link_writable(QIOChannel *ioc, GIOCondition condition,
                              gpointer opaque);

/* Returns false if the link is gone. */
static bool link_flush(HotsnapLink *l)
{
    while (l->out->len) {
        Error *err = NULL;
        ssize_t n = qio_channel_write(QIO_CHANNEL(l->ioc),
                                      (char *)l->out->data, l->out->len,
                                      &err);
        if (n == QIO_CHANNEL_ERR_BLOCK) {
            if (!l->write_watch) {
                l->write_watch = qio_channel_add_watch_source(
                    QIO_CHANNEL(l->ioc), G_IO_OUT, link_writable, l, NULL,
                    l->member->gctx);
            }
            return true;
        }
        if (n < 0 && !l->closing) {
            /*
             * The other side has closed. Its last words may wait to be read,
             * such as that the snapshot is complete: reading goes on, to the
             * end that comes after them.
             */
            trace_hotsnap_link(l->id, error_get_pretty(err));
            error_free(err);
            g_byte_array_set_size(l->out, 0);
            qio_channel_shutdown(QIO_CHANNEL(l->ioc),
                                 QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
            return true;
        }
        if (n < 0) {
            link_lost(l, error_get_pretty(err));
            error_free(err);
            return false;
        }
        g_byte_array_remove_range(l->out, 0, n);
    }
    if (l->closing) {
        g_hash_table_remove(l->member->links, &l->id);
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

static HotsnapLink *link_new(HotsnapMember *m, QIOChannelSocket *ioc,
                             const char *address)
{
    HotsnapLink *l = g_new0(HotsnapLink, 1);

    l->member = m;
    l->id = ++m->next_link;
    l->address = g_strdup(address);
    l->ioc = ioc;
    object_ref(OBJECT(ioc));
    l->out = g_byte_array_new();
    qio_channel_set_name(QIO_CHANNEL(ioc), "hotsnap-link");
    qio_channel_set_blocking(QIO_CHANNEL(ioc), false, NULL);
    qio_channel_set_delay(QIO_CHANNEL(ioc), false);
    g_hash_table_insert(m->links, &l->id, l);
    l->read_watch = qio_channel_add_watch_source(QIO_CHANNEL(ioc),
                                                 G_IO_IN | G_IO_HUP,
                                                 link_readable, l, NULL,
                                                 m->gctx);
    trace_hotsnap_link(l->id, address ?: "inbound");
    hs_coordinator_link_up(m->coordinator, l->id, !address, address,
                           hotsnap_now_us());
    return l;
}

static gboolean link_is_closing(gpointer key, gpointer value, gpointer opaque)
{
    HotsnapLink *l = value;

    return l->closing;
}

/*
 * Refuses by closing; the other side sees its connection lost. A link that
 * only waits for its last words to be read has no right to a place.
 */
static bool link_has_room(HotsnapMember *m)
{
    GHashTableIter iter;
    gpointer value;
    unsigned inbound = 0;

    if (g_hash_table_size(m->links) < INBOUND_MAX) {
        return true;
    }
    g_hash_table_foreach_remove(m->links, link_is_closing, NULL);
    g_hash_table_iter_init(&iter, m->links);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        inbound += !((HotsnapLink *)value)->address;
    }
    return inbound < INBOUND_MAX;
}

static void link_accepted(QIONetListener *listener, QIOChannelSocket *ioc,
                          gpointer opaque)
{
    HotsnapMember *m = opaque;

    if (!link_has_room(m)) {
        trace_hotsnap_link(0, "too many connections");
        return; /* the listener drops its reference, which closes it */
    }
    link_new(m, ioc, NULL);
    hotsnap_dispatch(m);
}

static void connect_free(HotsnapConnect *c)
{
    QLIST_REMOVE(c, next);
    timer_free(c->retry);
    if (c->fd >= 0) {
        close(c->fd);
    }
    g_free(c->address);
    g_free(c);
}

/* The caller dispatches what the coordinator makes of it. */
static void connect_failed(HotsnapConnect *c, const char *reason)
{
    HotsnapMember *m = c->member;
    g_autofree char *address = g_steal_pointer(&c->address);

    connect_free(c);
    hs_coordinator_link_down(m->coordinator, 0, address, reason,
                             hotsnap_now_us());
}

static void connect_done(HotsnapConnect *c)
{
    g_autoptr(QIOChannelSocket) ioc = NULL;
    Error *err = NULL;

    ioc = qio_channel_socket_new_fd(c->fd, &err);
    if (!ioc) {
        connect_failed(c, error_get_pretty(err));
        error_free(err);
        return;
    }
    c->fd = -1;
    link_new(c->member, ioc, c->address);
    connect_free(c);
}

static void connect_try(HotsnapConnect *c)
{
    int err = 0;

    if (connect(c->fd, &c->to.any, c->size) < 0) {
        err = errno;
    }
    switch (err) {
    case 0:
    case EISCONN:
        connect_done(c);
        return;
    case EAGAIN:
    case EALREADY:
    case EINPROGRESS:
    case EINTR:
        timer_mod(c->retry,
                  qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + c->wait_ms);
        c->wait_ms = MIN(2 * c->wait_ms, RETRY_LAST_MS);
        return;
    default:
        connect_failed(c, strerror(err));
    }
}

static void connect_again(void *opaque)
{
    HotsnapConnect *c = opaque;
    HotsnapMember *m = c->member;

    if (hs_coordinator_wants(m->coordinator, c->address)) {
        connect_try(c);
    } else {
        connect_failed(c, "the connection is not needed any more");
    }
    hotsnap_dispatch(m);
}

/* Of an address that address_parse() returned. */
static socklen_t connect_to(HotsnapConnect *c, const SocketAddress *addr)
{
    const char *host;
    unsigned port;

    if (addr->type == SOCKET_ADDRESS_TYPE_UNIX) {
        unix_sockaddr(addr->u.q_unix.path, &c->to.un);
        return sizeof(c->to.un);
    }
    host = addr->u.inet.host;
    qemu_strtoui(addr->u.inet.port, NULL, 10, &port);
    if (inet_pton(AF_INET, host, &c->to.in.sin_addr) == 1) {
        c->to.in.sin_family = AF_INET;
        c->to.in.sin_port = htons(port);
        return sizeof(c->to.in);
    }
    inet_pton(AF_INET6, host, &c->to.in6.sin6_addr);
    c->to.in6.sin6_family = AF_INET6;
    c->to.in6.sin6_port = htons(port);
    return sizeof(c->to.in6);
}

/* Called by hotsnap_dispatch(), which sees to what comes of it. */
void hotsnap_link_connect(HotsnapMember *m, const char *address)
{
    HotsnapConnect *c = g_new0(HotsnapConnect, 1);
    g_autoptr(SocketAddress) addr = NULL;
    Error *err = NULL;

    c->member = m;
    c->address = g_strdup(address);
    c->fd = -1;
    c->wait_ms = RETRY_FIRST_MS;
    c->retry = aio_timer_new(m->ctx, QEMU_CLOCK_REALTIME, SCALE_MS,
                             connect_again, c);
    QLIST_INSERT_HEAD(&m->connects, c, next);
    addr = address_parse(address, &err);
    if (!addr) {
        connect_failed(c, error_get_pretty(err));
        error_free(err);
        return;
    }
    c->size = connect_to(c, addr);
    c->fd = qemu_socket(c->to.any.sa_family, SOCK_STREAM, 0);
    if (c->fd < 0) {
        connect_failed(c, strerror(errno));
        return;
    }
    qemu_socket_set_nonblock(c->fd);
    connect_try(c);
}

void hotsnap_link_send(HotsnapMember *m, hs_link link, const uint8_t *data,
                       size_t size)
{
    HotsnapLink *l = g_hash_table_lookup(m->links, &link);

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

void hotsnap_link_close(HotsnapMember *m, hs_link link)
{
    HotsnapLink *l = g_hash_table_lookup(m->links, &link);

    if (l && !l->closing) {
        l->closing = true;
        if (!l->out->len) {
            g_hash_table_remove(m->links, &l->id);
        }
    }
}

/*
 * Whoever can connect commands this VM, so that the socket's file must never
 * exist with a wider mode. A umask() of our own would hold for all threads:
 * each could be creating a file. On Linux a Unix socket's file takes the
 * mode that the socket itself has when it is bound.
 */
static bool listen_unix(HotsnapMember *m, const char *path, Error **errp)
{
    g_autoptr(QIOChannelSocket) ioc = NULL;
    struct sockaddr_un un = { 0 };
    int fd = qemu_socket(AF_UNIX, SOCK_STREAM, 0);

    unix_sockaddr(path, &un);
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
    qio_net_listener_add(m->listener, ioc);
    return true;
}

bool hotsnap_links_listen(HotsnapMember *m, Error **errp)
{
    g_autoptr(SocketAddress) addr = address_parse(m->listen, errp);

    if (!addr) {
        return false;
    }
    m->links = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL,
                                     link_free);
    m->listener = qio_net_listener_new();
    qio_net_listener_set_name(m->listener, "hotsnap-member");
    if (addr->type == SOCKET_ADDRESS_TYPE_UNIX
        ? !listen_unix(m, addr->u.q_unix.path, errp)
        : qio_net_listener_open_sync(m->listener, addr, BACKLOG, errp) < 0) {
        return false;
    }
    for (size_t i = 0; i < m->listener->nsioc; i++) {
        /* A caller may be gone again before its connection is accepted. */
        qio_channel_set_blocking(QIO_CHANNEL(m->listener->sioc[i]), false,
                                 NULL);
    }
    qio_net_listener_set_client_func_full(m->listener, link_accepted, m, NULL,
                                          m->gctx);
    return true;
}

void hotsnap_links_close(HotsnapMember *m)
{
    if (m->listener) {
        qio_net_listener_disconnect(m->listener);
        g_clear_pointer(&m->listener, object_unref);
    }
    while (!QLIST_EMPTY(&m->connects)) {
        connect_free(QLIST_FIRST(&m->connects));
    }
    if (m->links) {
        g_hash_table_remove_all(m->links);
    }
}
