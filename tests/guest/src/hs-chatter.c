/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * hs-chatter: numbered messages to every peer, over UDP and over TCP, counted on a tagged page.
 *
 * One thread, one epoll loop. To each peer it keeps one UDP stream and one TCP connection that it
 * made itself; the peer does the same, so each ordered pair has a stream and a connection of its
 * own. A connection goes one way only, and each record names its sender, so that records need no
 * other framing. UDP to a peer begins when the TCP connection to it stands: the peer's UDP socket
 * is then bound, and not one datagram need be lost, which makes every gap worth reporting.
 */
#define _GNU_SOURCE
#include "hs-message.h"
#include "hs-tag.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum {
    PORT = 7701,
    TICK_MS = 10,
    RETRY_MS = 1000, /* between attempts to connect; also how long one may take */
    ACCEPTED_MAX = 4 * HS_ENTRIES_MAX,
    MESSAGE_MAX = 32768,
    SOCKET_BUFFER = 8 << 20, /* bytes: a minute of messages and more, so that none is dropped */
};

/* A message, and zeros up to the size of all messages. */
struct hs_record {
    struct hs_message message;
    char padding[MESSAGE_MAX - sizeof(struct hs_message)];
};

struct peer {
    struct hs_chatter_entry *count;
    struct sockaddr_in address;
    struct sockaddr_in udp_address;
    int tcp; /* the connection made by us; -1: none */
    bool connected;
    uint64_t attempt_ns;      /* when the connection was begun, or lost */
    struct hs_record pending; /* the record being sent */
    size_t pending_left;      /* bytes of it that the socket has not taken yet */
    int inbound;              /* index in `accepted` of the peer's connection to us; -1: none */
};

struct accepted {
    int fd;   /* -1: free */
    int peer; /* -1: not known yet */
    struct hs_record record;
    size_t have;
};

static struct hs_tag_page *page;
static struct peer peers[HS_ENTRIES_MAX];
static int peer_count;
static struct accepted accepted[ACCEPTED_MAX];
static int epoll_fd, udp_fd, listen_fd, timer_fd;
static size_t message_size = sizeof(struct hs_message);

/* The subject of an epoll event: a class and an index. */
enum source { SOURCE_TIMER, SOURCE_UDP, SOURCE_LISTEN, SOURCE_OUTBOUND, SOURCE_INBOUND };

static void watch(int fd, uint32_t events, enum source source, int index) {
    struct epoll_event event = {.events = events,
                                .data.u64 = (uint64_t)source << 32 | (uint32_t)index};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
        hs_die("epoll: %s", strerror(errno));
    }
}

/* The index of the peer that sent `message`, or -1 when it is damaged or from a stranger. */
static int message_sender(const struct hs_message *message) {
    if (!hs_message_whole(message)) {
        return -1;
    }
    for (int i = 0; i < peer_count; i++) {
        if (memcmp(message->sender, peers[i].count->peer, HS_NAME_SIZE) == 0) {
            return i;
        }
    }
    return -1;
}

/* A peer that was started anew counts from 1 again, so the counts of its messages begin anew. */
static void note_incarnation(struct peer *peer, uint64_t nonce) {
    struct hs_chatter_entry *count = peer->count;
    if (hs_get(&count->peer_nonce) != nonce) {
        hs_set(&count->udp_received_max, 0);
        hs_set(&count->udp_received, 0);
        hs_set(&count->tcp_received, 0);
        hs_set(&count->peer_nonce, nonce);
    }
}

/* ---- UDP ---- */

static void udp_send(struct peer *peer) {
    static struct hs_record record;
    hs_message_make(&record.message, page,
                    hs_next(&peer->count->udp_sent)); /* counted before it is sent */
    if (sendto(udp_fd, &record, message_size, 0, (struct sockaddr *)&peer->udp_address,
               sizeof(peer->udp_address)) < 0) {
        /* Counted and not sent: the receiver will see the gap. */
    }
}

static void udp_receive(void) {
    struct hs_message message;
    ssize_t got;
    while ((got = recv(udp_fd, &message, sizeof(message), MSG_DONTWAIT | MSG_TRUNC)) >= 0 ||
           errno == ECONNREFUSED || errno == EINTR) {
        int index = got == (ssize_t)message_size ? message_sender(&message) : -1;
        if (index < 0) {
            continue;
        }
        struct hs_chatter_entry *count = peers[index].count;
        note_incarnation(&peers[index], message.nonce);
        uint64_t max = hs_get(&count->udp_received_max);
        hs_next(&count->udp_received);
        if (message.number <= max) {
            hs_next(&count->udp_late);
        } else {
            hs_set(&count->udp_gaps, hs_get(&count->udp_gaps) + (message.number - max - 1));
            hs_set(&count->udp_received_max, message.number);
        }
    }
}

/* ---- TCP, to a peer ---- */

static void tcp_lost(struct peer *peer) {
    if (peer->connected) {
        hs_next(&peer->count->tcp_reconnects);
    }
    close(peer->tcp);
    peer->tcp = -1;
    peer->connected = false;
    peer->pending_left = 0;
    peer->attempt_ns = hs_now();
}

static void tcp_connect(struct peer *peer) {
    int one = 1;
    peer->attempt_ns = hs_now();
    peer->tcp = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (peer->tcp < 0) {
        hs_die("socket: %s", strerror(errno));
    }
    setsockopt(peer->tcp, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (connect(peer->tcp, (struct sockaddr *)&peer->address, sizeof(peer->address)) != 0 &&
        errno != EINPROGRESS) {
        tcp_lost(peer);
        return;
    }
    watch(peer->tcp, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, SOURCE_OUTBOUND,
          (int)(peer - peers));
}

/* Give the socket as much of the begun record as it takes. False: full for now, or broken. */
static bool tcp_flush(struct peer *peer) {
    while (peer->pending_left > 0) {
        const char *from = (const char *)&peer->pending + message_size - peer->pending_left;
        ssize_t sent = send(peer->tcp, from, peer->pending_left, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            if (errno != EAGAIN && errno != EINTR) {
                tcp_lost(peer);
            }
            return false;
        }
        peer->pending_left -= (size_t)sent;
    }
    return true;
}

static void tcp_send(struct peer *peer) {
    if (!tcp_flush(peer)) {
        return; /* no record is begun before the last one is sent, so nothing queues up here */
    }
    hs_message_make(&peer->pending.message, page,
                    hs_next(&peer->count->tcp_sent)); /* counted before it is sent */
    peer->pending_left = message_size;
    tcp_flush(peer);
}

static void tcp_event(struct peer *peer, uint32_t events) {
    int error = 0;
    socklen_t length = sizeof(error);
    if (peer->tcp < 0) {
        return; /* lost by an event handled just before this one */
    }
    if (getsockopt(peer->tcp, SOL_SOCKET, SO_ERROR, &error, &length) != 0 || error != 0 ||
        (events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) != 0) {
        tcp_lost(peer);
    } else if ((events & EPOLLOUT) != 0) {
        peer->connected = true;
        tcp_flush(peer);
    }
}

/* ---- TCP, from a peer ---- */

static void accepted_close(struct accepted *connection) {
    if (connection->peer >= 0) {
        struct peer *peer = &peers[connection->peer];
        if (peer->inbound == (int)(connection - accepted)) {
            peer->inbound = -1;
            hs_next(&peer->count->tcp_reconnects);
        }
    }
    close(connection->fd);
    connection->fd = -1;
}

static void tcp_accept(void) {
    int fd;
    while ((fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        int slot = 0;
        while (slot < ACCEPTED_MAX && accepted[slot].fd >= 0) {
            slot++;
        }
        if (slot == ACCEPTED_MAX) {
            close(fd);
            continue;
        }
        accepted[slot] = (struct accepted){.fd = fd, .peer = -1};
        watch(fd, EPOLLIN | EPOLLRDHUP, SOURCE_INBOUND, slot);
    }
}

/* False: the connection is of no more use. */
static bool tcp_record(struct accepted *connection) {
    const struct hs_message *record = &connection->record.message;
    int sender = message_sender(record);
    if (connection->peer < 0) {
        if (sender < 0) {
            return false;
        }
        struct peer *peer = &peers[sender];
        connection->peer = sender;
        if (peer->inbound >= 0) {
            accepted_close(&accepted[peer->inbound]);
        }
        peer->inbound = (int)(connection - accepted);
        note_incarnation(peer, record->nonce);
    }
    struct hs_chatter_entry *count = peers[connection->peer].count;
    if (sender != connection->peer || record->nonce != hs_get(&count->peer_nonce)) {
        hs_next(&count->tcp_errors);
        return false;
    }
    if (record->number != hs_get(&count->tcp_received) + 1) {
        hs_next(&count->tcp_errors);
    }
    hs_set(&count->tcp_received, record->number);
    return true;
}

static void tcp_receive(struct accepted *connection) {
    while (connection->fd >= 0) {
        ssize_t got = recv(connection->fd, (char *)&connection->record + connection->have,
                           message_size - connection->have, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (got <= 0) {
            accepted_close(connection);
            return;
        }
        connection->have += (size_t)got;
        if (connection->have == message_size) {
            connection->have = 0;
            if (!tcp_record(connection)) {
                accepted_close(connection);
            }
        }
    }
}

/* ---- the loop ---- */

static void report(void) {
    for (int i = 0; i < peer_count; i++) {
        struct hs_chatter_entry *c = peers[i].count;
#define N(field) (unsigned long long)hs_get(&c->field)
        hs_line("chatter %s hb=%llu peer=%s udp_sent=%llu udp_received=%llu udp_gaps=%llu "
                "udp_late=%llu tcp_sent=%llu tcp_received=%llu tcp_errors=%llu "
                "tcp_reconnects=%llu",
                page->name, (unsigned long long)hs_get(&page->heartbeat), c->peer, N(udp_sent),
                N(udp_received), N(udp_gaps), N(udp_late), N(tcp_sent), N(tcp_received),
                N(tcp_errors), N(tcp_reconnects));
#undef N
    }
}

/* One tick: `count` messages to each peer. Ticks that were missed while the guest was slow or
 * paused are not made up for, so that no burst follows a snapshot. */
static void tick(unsigned count) {
    uint64_t now = hs_now();
    hs_next(&page->heartbeat);
    for (int i = 0; i < peer_count; i++) {
        struct peer *peer = &peers[i];
        if (!peer->connected && now - peer->attempt_ns >= RETRY_MS * 1000000ull) {
            if (peer->tcp >= 0) {
                tcp_lost(peer);
            }
            tcp_connect(peer);
        }
        for (unsigned n = 0; n < count && peer->connected; n++) {
            udp_send(peer);
            tcp_send(peer);
        }
    }
}

static void open_sockets(void) {
    int one = 1, size = SOCKET_BUFFER;
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    udp_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (udp_fd < 0 || listen_fd < 0 || timer_fd < 0 || epoll_fd < 0) {
        hs_die("cannot open a socket: %s", strerror(errno));
    }
    setsockopt(udp_fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
    setsockopt(listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    /* UDP first: peers take a listening socket for a sign that datagrams are received too. */
    if (bind(udp_fd, (struct sockaddr *)&any, sizeof(any)) != 0 ||
        bind(listen_fd, (struct sockaddr *)&any, sizeof(any)) != 0 ||
        listen(listen_fd, ACCEPTED_MAX) != 0) {
        hs_die("port %d: %s", PORT, strerror(errno));
    }
    struct itimerspec every = {.it_interval.tv_nsec = TICK_MS * 1000000,
                               .it_value.tv_nsec = TICK_MS * 1000000};
    timerfd_settime(timer_fd, 0, &every, NULL);
    watch(timer_fd, EPOLLIN, SOURCE_TIMER, 0);
    watch(udp_fd, EPOLLIN, SOURCE_UDP, 0);
    watch(listen_fd, EPOLLIN, SOURCE_LISTEN, 0);
}

/* Takes NAME:ADDRESS apart; the name is what is left of `text`. */
static struct sockaddr_in take_address(char *text) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    char *colon = strchr(text, ':');
    if (colon == NULL || inet_pton(AF_INET, colon + 1, &address.sin_addr) != 1) {
        hs_die("bad peer '%s': NAME:ADDRESS, please", text);
    }
    *colon = '\0';
    return address;
}

static void add_peer(char *text) {
    if (peer_count == HS_ENTRIES_MAX) {
        hs_die("too many peers: at most %d", HS_ENTRIES_MAX);
    }
    struct sockaddr_in address = take_address(text);
    peers[peer_count++] =
        (struct peer){.tcp = -1, .inbound = -1, .address = address, .udp_address = address};
}

/* The peer gets its datagrams at another address. `names` are those of the peers. */
static void redirect_udp(char *text, char **names) {
    struct sockaddr_in address = take_address(text);
    for (int i = 0; i < peer_count; i++) {
        if (strcmp(names[i], text) == 0) {
            peers[i].udp_address = address;
            return;
        }
    }
    hs_die("-u names no peer: %s", text);
}

int main(int argc, char **argv) {
    unsigned rate = 100;
    const char *name = NULL;
    char *redirected[HS_ENTRIES_MAX];
    int redirected_count = 0, option;
    while ((option = getopt(argc, argv, "n:r:s:u:")) != -1) {
        if (option == 'n') {
            name = optarg;
        } else if (option == 'r') {
            rate = (unsigned)hs_number("-r", optarg, 1, 100000);
        } else if (option == 's') {
            message_size = hs_number("-s", optarg, sizeof(struct hs_message), MESSAGE_MAX);
        } else if (option == 'u' && redirected_count < HS_ENTRIES_MAX) {
            redirected[redirected_count++] = optarg;
        } else {
            return 2;
        }
    }
    if (name == NULL || optind == argc) {
        hs_die("usage: hs-chatter -n NAME [-r RATE] [-s BYTES] [-u PEER:ADDRESS]... "
               "PEER:ADDRESS...");
    }
    for (int i = optind; i < argc; i++) {
        add_peer(argv[i]);
    }
    for (int i = 0; i < redirected_count; i++) {
        redirect_udp(redirected[i], argv + optind);
    }
    page = hs_tag_new(HS_TAG_CHATTER, name, (uint32_t)peer_count);
    for (int i = 0; i < peer_count; i++) {
        peers[i].count = &page->u.chatter[i];
        hs_set_name(&peers[i].count->peer, argv[optind + i]);
    }
    for (int i = 0; i < ACCEPTED_MAX; i++) {
        accepted[i].fd = -1;
    }
    signal(SIGPIPE, SIG_IGN);
    open_sockets();
    hs_tag_publish(page);

    unsigned owed = 0; /* messages times ticks per second that are still to be sent */
    uint64_t reported = hs_now();
    for (;;) {
        struct epoll_event events[32];
        int count = epoll_wait(epoll_fd, events, 32, -1);
        for (int i = 0; i < count; i++) {
            int index = (int)(events[i].data.u64 & UINT32_MAX);
            uint64_t expirations;
            switch ((enum source)(events[i].data.u64 >> 32)) {
            case SOURCE_TIMER:
                if (read(timer_fd, &expirations, sizeof(expirations)) > 0) {
                    owed += rate;
                    tick(owed / (1000 / TICK_MS));
                    owed %= 1000 / TICK_MS;
                }
                break;
            case SOURCE_UDP:
                udp_receive();
                break;
            case SOURCE_LISTEN:
                tcp_accept();
                break;
            case SOURCE_OUTBOUND:
                tcp_event(&peers[index], events[i].events);
                break;
            case SOURCE_INBOUND:
                tcp_receive(&accepted[index]);
                break;
            }
        }
        if (hs_now() - reported >= 1000000000u) {
            reported = hs_now();
            report();
        }
    }
}
