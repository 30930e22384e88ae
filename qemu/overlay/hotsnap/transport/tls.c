/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "address.h"
#include "authz/base.h"
#include "qapi/error.h"
#include "qom/object.h"
#include "tls.h"

static QCryptoTLSCreds *find_creds(const char *id,
                                   QCryptoTLSCredsEndpoint endpoint,
                                   Error **errp)
{
    Object *obj = object_resolve_path_component(object_get_objects_root(), id);
    bool is_x509 = obj && object_dynamic_cast(obj, "tls-creds-x509");

    if (!is_x509 && !(obj && object_dynamic_cast(obj, "tls-creds-psk"))) {
        error_setg(errp, "'%s' is no tls-creds-x509 and no tls-creds-psk "
                   "object; put one before hotsnap-member", id);
        return NULL;
    }
    if (!qcrypto_tls_creds_check_endpoint((QCryptoTLSCreds *)obj, endpoint,
                                          errp)) {
        error_prepend(errp, "'%s': ", id);
        return NULL;
    }
    if (is_x509 && !object_property_get_bool(obj, "verify-peer", NULL)) {
        error_setg(errp, "'%s' has verify-peer=off, so that anybody could "
                   "pass for a member; leave that out", id);
        return NULL;
    }
    return (QCryptoTLSCreds *)object_ref(obj);
}

static bool find_all(HotsnapTls *tls, const HotsnapTlsOptions *o, Error **errp)
{
    if (o->insecure && (o->creds || o->creds_client)) {
        error_setg(errp, "insecure=on contradicts TLS credentials; leave it "
                   "out");
        return false;
    }
    if (o->creds) {
        tls->server = find_creds(o->creds, QCRYPTO_TLS_CREDS_ENDPOINT_SERVER,
                                 errp);
        if (!tls->server) {
            return false;
        }
    }
    if (o->creds_client) {
        tls->client = find_creds(o->creds_client,
                                 QCRYPTO_TLS_CREDS_ENDPOINT_CLIENT, errp);
        if (!tls->client) {
            return false;
        }
    }
    /* QEMU asks no authz object about the holder of a shared key. */
    if (o->authz && (!tls->server || hotsnap_tls_is_psk(tls->server))) {
        error_setg(errp, "tls-authz says which certificates may connect; it "
                   "needs tls-creds with a tls-creds-x509 object");
        return false;
    }
    return true;
}

HotsnapTls *hotsnap_tls_new(const HotsnapTlsOptions *o, Error **errp)
{
    HotsnapTls *tls = g_new0(HotsnapTls, 1);

    tls->authz = g_strdup(o->authz);
    tls->insecure = o->insecure;
    if (!find_all(tls, o, errp)) {
        hotsnap_tls_free(tls);
        return NULL;
    }
    return tls;
}

void hotsnap_tls_free(HotsnapTls *tls)
{
    if (tls) {
        object_unref(OBJECT(tls->server));
        object_unref(OBJECT(tls->client));
        g_free(tls->authz);
        g_free(tls);
    }
}

SocketAddress *hotsnap_tls_listen_address(const HotsnapTls *tls,
                                          const char *str, Error **errp)
{
    g_autoptr(SocketAddress) addr = hotsnap_address_parse(str, errp);

    if (!addr) {
        return NULL;
    }
    if (addr->type == SOCKET_ADDRESS_TYPE_UNIX && tls->server) {
        error_setg(errp, "tls-creds is for TCP, and '%s' is a Unix socket, "
                   "which the mode of its file protects; leave one of them "
                   "out", str);
        return NULL;
    }
    if (addr->type == SOCKET_ADDRESS_TYPE_INET && tls->client &&
        !tls->server) {
        error_setg(errp, "With tls-creds-client, the listener at '%s' needs "
                   "tls-creds, too", str);
        return NULL;
    }
    if (!hotsnap_address_is_local(addr) && !tls->server && !tls->insecure) {
        error_setg(errp, "Address '%s' is not on the loopback interface, and "
                   "whoever reaches it could command this VM: give tls-creds "
                   "and tls-creds-client, or insecure=on if nobody but the "
                   "members can reach it", str);
        return NULL;
    }
    return g_steal_pointer(&addr);
}

SocketAddress *hotsnap_tls_connect_address(const HotsnapTls *tls,
                                           const char *str, Error **errp)
{
    g_autoptr(SocketAddress) addr = hotsnap_address_parse(str, errp);

    if (!addr) {
        return NULL;
    }
    if (addr->type == SOCKET_ADDRESS_TYPE_INET && tls->server &&
        !tls->client) {
        error_setg(errp, "this member has tls-creds, but not the "
                   "tls-creds-client that it needs to connect to '%s'", str);
        return NULL;
    }
    if (!hotsnap_address_is_local(addr) && !tls->client && !tls->insecure) {
        error_setg(errp, "Address '%s' is not on the loopback interface: give "
                   "this member tls-creds-client, or insecure=on if nobody "
                   "but the members can reach it", str);
        return NULL;
    }
    return g_steal_pointer(&addr);
}

QIOChannelTLS *hotsnap_tls_channel(const HotsnapTls *tls, QIOChannel *ioc,
                                   const char *server_name, Error **errp)
{
    /*
     * Without the name of the authz object: QEMU would ask it in this thread,
     * while the main loop may change it.
     */
    return server_name
           ? qio_channel_tls_new_client(ioc, tls->client, server_name, errp)
           : qio_channel_tls_new_server(ioc, tls->server, NULL, errp);
}

bool hotsnap_tls_is_psk(const QCryptoTLSCreds *creds)
{
    return object_dynamic_cast(OBJECT(creds), "tls-creds-psk");
}

bool hotsnap_tls_authorize(const HotsnapTls *tls, const char *identity,
                           Error **errp)
{
    ERRP_GUARD();
    bool allowed = qauthz_is_allowed_by_id(tls->authz, identity, errp);

    if (!allowed && !*errp) {
        error_setg(errp, "'%s' does not allow %s", tls->authz, identity);
    }
    return allowed;
}
