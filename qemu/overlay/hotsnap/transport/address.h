/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Addresses of members.
 */
#ifndef HOTSNAP_TRANSPORT_ADDRESS_H
#define HOTSNAP_TRANSPORT_ADDRESS_H

#include "qapi/qapi-types-sockets.h"
#include <sys/un.h>

/*
 * unix:PATH or tcp:HOST:PORT. HOST is an IP address: no name is looked up, as
 * that can take as long as a name server likes; localhost is 127.0.0.1.
 */
SocketAddress *hotsnap_address_parse(const char *str, Error **errp);

/* Whether no other host can reach it: a Unix socket, or loopback. */
bool hotsnap_address_is_local(const SocketAddress *addr);

void hotsnap_unix_sockaddr(const char *path, struct sockaddr_un *un);

#endif
