/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TLS between members, by QEMU's own objects: which connections have it, and
 * what is refused without it. docs/security.md has the threat model.
 */
#ifndef HOTSNAP_TRANSPORT_TLS_H
#define HOTSNAP_TRANSPORT_TLS_H

#include "crypto/tlscreds.h"
#include "io/channel-tls.h"
#include "qapi/qapi-types-sockets.h"

typedef struct HotsnapTlsOptions {
    char *creds;        /* id of tls-creds-* with endpoint=server, or NULL */
    char *creds_client; /* the same with endpoint=client */
    char *authz;        /* id of an authz-* object, or NULL */
    bool insecure;
} HotsnapTlsOptions;

/* Does not change once it is made: any thread may read it. */
typedef struct HotsnapTls {
    QCryptoTLSCreds *server; /* for TCP connections that are accepted */
    QCryptoTLSCreds *client; /* for those that are made */
    char *authz;             /* who may connect, by distinguished name */
    bool insecure;
} HotsnapTls;

/* Main loop. The objects must exist; NULL is returned with an error. */
HotsnapTls *hotsnap_tls_new(const HotsnapTlsOptions *o, Error **errp);
void hotsnap_tls_free(HotsnapTls *tls);

/*
 * hotsnap_address_parse(), and refuses what would let a stranger listen or
 * command: TCP beyond loopback needs TLS, or the user's word (insecure=on).
 */
SocketAddress *hotsnap_tls_listen_address(const HotsnapTls *tls,
                                          const char *str, Error **errp);
SocketAddress *hotsnap_tls_connect_address(const HotsnapTls *tls,
                                           const char *str, Error **errp);

/*
 * TLS over @ioc, a TCP connection; handshake.h goes on. @server_name is the
 * member that the connection leads to, or NULL if it was accepted.
 */
QIOChannelTLS *hotsnap_tls_channel(const HotsnapTls *tls, QIOChannel *ioc,
                                   const char *server_name, Error **errp);

/* Whether a key that all members share is what the other side has to know. */
bool hotsnap_tls_is_psk(const QCryptoTLSCreds *creds);

/*
 * Main loop, since QEMU's authz objects are asked and changed there. Returns
 * whether @identity, a distinguished name, may connect; sets an error if not.
 */
bool hotsnap_tls_authorize(const HotsnapTls *tls, const char *identity,
                           Error **errp);

#endif
