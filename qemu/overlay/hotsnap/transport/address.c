/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "address.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-sockets.h"
#include "qemu/cutils.h"
#include "qemu/sockets.h"

bool hotsnap_address_is_local(const SocketAddress *addr)
{
    struct in_addr v4;
    struct in6_addr v6;

    if (addr->type == SOCKET_ADDRESS_TYPE_UNIX) {
        return true;
    }
    if (inet_pton(AF_INET, addr->u.inet.host, &v4) == 1) {
        return ntohl(v4.s_addr) >> 24 == 127;
    }
    return inet_pton(AF_INET6, addr->u.inet.host, &v6) == 1 &&
           IN6_IS_ADDR_LOOPBACK(&v6);
}

static bool is_ip_address(const char *host)
{
    struct in6_addr any;

    return inet_pton(AF_INET, host, &any) == 1 ||
           inet_pton(AF_INET6, host, &any) == 1;
}

SocketAddress *hotsnap_address_parse(const char *str, Error **errp)
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
    if (addr->type != SOCKET_ADDRESS_TYPE_UNIX &&
        addr->type != SOCKET_ADDRESS_TYPE_INET) {
        error_setg(errp, "Address '%s' is neither a Unix socket nor TCP: use "
                   "unix:PATH or tcp:HOST:PORT", str);
    } else if (addr->type == SOCKET_ADDRESS_TYPE_INET &&
               !is_ip_address(addr->u.inet.host)) {
        error_setg(errp, "'%s' in address '%s' is no IP address; names other "
                   "than localhost are not looked up", addr->u.inet.host, str);
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

void hotsnap_unix_sockaddr(const char *path, struct sockaddr_un *un)
{
    un->sun_family = AF_UNIX;
    pstrcpy(un->sun_path, sizeof(un->sun_path), path);
}
