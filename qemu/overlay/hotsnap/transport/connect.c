/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connections that the member makes. All code runs in its iothread, which
 * also owns the heartbeats and hears ABORT: nothing here may block.
 *
 * QEMU's own asynchronous connect is a thread that a Unix socket with a full
 * backlog holds for ever, and nothing can end it. So connect() is called
 * again by a timer: it gives EAGAIN while a Unix socket's backlog is full,
 * and EALREADY while a TCP connection is being made. A connection is tried
 * for as long as the coordinator wants it: the coordinator has the deadlines.
 */
#include "qemu/osdep.h"
#include "address.h"
#include "../clock.h"
#include "connect.h"
#include "io/channel-socket.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/sockets.h"
#include "qemu/timer.h"

#define RETRY_FIRST_MS 1
#define RETRY_LAST_MS 50

/* A connection that is not there yet. */
struct HotsnapConnect {
    HotsnapLinks *links;
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

/* The caller dispatches the actions that follow. */
static void connect_failed(HotsnapConnect *c, const char *reason)
{
    HotsnapLinks *ls = c->links;
    g_autofree char *address = g_steal_pointer(&c->address);

    connect_free(c);
    hs_coordinator_link_down(ls->coordinator, 0, address, reason,
                             hotsnap_now_us());
}

static void connect_done(HotsnapConnect *c)
{
    g_autoptr(QIOChannelSocket) ioc = NULL;
    Error *err = NULL;
    g_autofree char *name = NULL;

    name = g_strdup(hs_coordinator_wants(c->links->coordinator, c->address));
    if (!name) {
        connect_failed(c, "the connection is not needed any more");
        return;
    }
    ioc = qio_channel_socket_new_fd(c->fd, &err);
    if (!ioc) {
        connect_failed(c, error_get_pretty(err));
        error_free(err);
        return;
    }
    c->fd = -1;
    hotsnap_link_new(c->links, ioc, c->address, name);
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
    HotsnapLinks *ls = c->links;

    if (hs_coordinator_wants(ls->coordinator, c->address)) {
        connect_try(c);
    } else {
        connect_failed(c, "the connection is not needed any more");
    }
    ls->ops->dispatch(ls->opaque);
}

/* Of an address that hotsnap_tls_connect_address() returned. */
static socklen_t connect_to(HotsnapConnect *c, const SocketAddress *addr)
{
    const char *host;
    unsigned port;

    if (addr->type == SOCKET_ADDRESS_TYPE_UNIX) {
        hotsnap_unix_sockaddr(addr->u.q_unix.path, &c->to.un);
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

void hotsnap_links_connect(HotsnapLinks *ls, const char *address)
{
    HotsnapConnect *c = g_new0(HotsnapConnect, 1);
    g_autoptr(SocketAddress) addr = NULL;
    Error *err = NULL;

    c->links = ls;
    c->address = g_strdup(address);
    c->fd = -1;
    c->wait_ms = RETRY_FIRST_MS;
    c->retry = aio_timer_new(ls->ctx, QEMU_CLOCK_REALTIME, SCALE_MS,
                             connect_again, c);
    QLIST_INSERT_HEAD(&ls->connects, c, next);
    addr = hotsnap_tls_connect_address(ls->tls, address, &err);
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

void hotsnap_links_end_connects(HotsnapLinks *ls)
{
    while (!QLIST_EMPTY(&ls->connects)) {
        connect_free(QLIST_FIRST(&ls->connects));
    }
}
