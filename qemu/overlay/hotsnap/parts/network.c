/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "../counters.h"
#include "net/net.h"
#include "net/vhost_net.h"
#include "network.h"
#include "../pause_clock.h"
#include "qapi/error.h"
#include "qobject/qjson.h"
#include "system/runstate.h"

#include <hotsnap/snapshot.h>

typedef struct Channel {
    HotsnapRun *run;
    uint64_t pcap_xxh3, vnet_xxh3; /* of its files */
} Channel;

bool hotsnap_network_init(HotsnapNetwork *n, Object *owner, Error **errp)
{
    n->owner = owner;
    QTAILQ_INIT(&n->filters);
    n->mediator = hs_mediator_new();
    if (!n->mediator) {
        error_setg(errp, "There is no memory for the packet mediator");
    }
    return n->mediator;
}

void hotsnap_network_clear(HotsnapNetwork *n)
{
    hs_mediator_free(n->mediator);
}

void hotsnap_network_set_ops(HotsnapNetwork *n, const HotsnapNetworkOps *ops,
                             void *opaque)
{
    n->ops = ops;
    n->opaque = opaque;
}

bool hotsnap_network_is_unused(HotsnapNetwork *n)
{
    return QTAILQ_EMPTY(&n->filters);
}

void hotsnap_network_identify(HotsnapNetwork *n)
{
    FilterHotsnap *f;

    QTAILQ_FOREACH(f, &n->filters, next_filter) {
        if (f->nic_added) {
            hs_mediator_remove_nic(n->mediator, f->nic);
            f->nic_added = false;
        }
    }
    QTAILQ_FOREACH(f, &n->filters, next_filter) {
        NetFilterState *nf = NETFILTER(f);
        NetClientState *peer = nf->netdev->peer;

        if (peer && peer->info->type == NET_CLIENT_DRIVER_NIC) {
            f->nic = hs_mediator_add_nic(n->mediator, nf->netdev_id,
                                         qemu_get_nic(peer)->conf->macaddr.a,
                                         nf->netdev->vnet_hdr_len,
                                         f->queue_count);
            f->nic_added = true;
        }
    }
}

FilterHotsnap *hotsnap_network_filter(HotsnapNetwork *n, uint32_t nic)
{
    FilterHotsnap *f;

    QTAILQ_FOREACH(f, &n->filters, next_filter) {
        if (f->nic_added && f->nic == nic) {
            return f;
        }
    }
    return NULL;
}

static hs_mediator_stats get_stats(HotsnapNetwork *n)
{
    hs_mediator_stats s = { .struct_size = sizeof(s) };

    hs_mediator_get_stats(n->mediator, &s);
    return s;
}

HotsnapMediatorInfo *hotsnap_network_info(HotsnapNetwork *n)
{
    HotsnapMediatorInfo *info = g_new0(HotsnapMediatorInfo, 1);
    hs_mediator_stats s = get_stats(n);

    HOTSNAP_COPY_COUNTERS(HS_MEDIATOR_COUNTERS, info, s);
    return info;
}

/* The part. */

static FilterHotsnap *filter_of_netdev(HotsnapNetwork *n,
                                       NetClientState *netdev)
{
    FilterHotsnap *f;

    QTAILQ_FOREACH(f, &n->filters, next_filter) {
        NetFilterState *nf = NETFILTER(f);

        if (nf->netdev == netdev && nf->on &&
            nf->direction == NET_FILTER_DIRECTION_ALL) {
            return f;
        }
    }
    return NULL;
}

typedef struct NicCheck {
    HotsnapNetwork *network;
    Error **errp;
    bool ok;
} NicCheck;

static void check_nic(NICState *nic, void *opaque)
{
    NicCheck *c = opaque;
    NetClientState *nc = qemu_get_queue(nic);
    NetClientState *peer = nc->peer;

    if (!c->ok || !peer) {
        return; /* without a backend no frame ever leaves */
    }
    c->ok = false;
    if (get_vhost_net(peer)) {
        error_setg(c->errp, "Packets of NIC '%s' bypass QEMU (vhost); use "
                   "-netdev tap,...,vhost=off", nc->name);
    } else if (nic->conf->peers.queues > 1 &&
               peer->info->type != NET_CLIENT_DRIVER_TAP) {
        error_setg(c->errp, "NIC '%s' has several queues on a backend other "
                   "than a tap, which does not tell when they are empty; use "
                   "-netdev tap, or queues=1", nc->name);
    } else if (peer->vnet_hdr_len > 12) {
        error_setg(c->errp, "NIC '%s' puts a hash into the header of each "
                   "packet, which cannot be recorded; use hash=off on its "
                   "device", nc->name);
    } else if (!filter_of_netdev(c->network, peer)) {
        error_setg(c->errp, "Network backend '%s' of NIC '%s' has no packet "
                   "mediator; start QEMU with -object "
                   "filter-hotsnap,id=ID,netdev=%s,member=ID",
                   peer->name, nc->name, peer->name);
    } else {
        c->ok = true;
    }
}

static void *network_begin(HotsnapRun *r, Error **errp)
{
    NicCheck nics = { .network = r->network, .errp = errp, .ok = true };
    Channel *c;

    qemu_foreach_nic(check_nic, &nics);
    if (!nics.ok) {
        return NULL;
    }
    hotsnap_network_identify(r->network);
    c = g_new0(Channel, 1);
    c->run = r;
    r->network->run = r;
    return c;
}

static bool network_cut(void *opaque, Error **errp)
{
    Channel *c = opaque;

    hs_mediator_cut(c->run->network->mediator);
    hotsnap_pause_step(&c->run->pause, "color");
    return true;
}

/* A guest that boots from its disk has no use for frames on their way. */
static bool has_record(const Channel *c)
{
    return hotsnap_run_content(c->run) == HOTSNAP_CONTENT_ALL;
}

/*
 * To whom this guest speaks first, a restored one will speak first, too. Not
 * if the VM stands still: a time that is too long would let a restore start it
 * too early. Guests that boot from their disks say other things.
 */
static bool network_resume(void *opaque, Error **errp)
{
    Channel *c = opaque;

    if (has_record(c) && runstate_is_running()) {
        hs_mediator_begin_contacts(c->run->network->mediator,
                                   g_get_real_time() * 1000);
    }
    return true;
}

static char *channel_file(const char *folder, const char *suffix)
{
    return g_strdup_printf("%s/channel.%s", folder, suffix);
}

/* Reads the mediator without the BQL; hotsnap/member.h says why it may. */
static bool network_finish(void *opaque, Error **errp)
{
    Channel *c = opaque;
    g_autofree char *pcap = channel_file(c->run->folder, "pcap");
    g_autofree char *vnet = channel_file(c->run->folder, "vnet");
    char *error = NULL;

    if (!has_record(c)) {
        return true;
    }
    if (!hs_mediator_write_channel(c->run->network->mediator, pcap, vnet,
                                   &error) ||
        !hs_file_xxh3(pcap, &c->pcap_xxh3, &error) ||
        !hs_file_xxh3(vnet, &c->vnet_xxh3, &error)) {
        error_setg(errp, "%s", error);
        hs_string_free(error);
        return false;
    }
    return true;
}

/* A hint: it may be missing. */
static void report_contacts(const Channel *c, QDict *channel)
{
    char *text = hs_mediator_contacts_json(c->run->network->mediator,
                                           g_get_real_time() * 1000);
    QObject *contacts = text ? qobject_from_json(text, NULL) : NULL;

    if (contacts) {
        qdict_put_obj(channel, "contacts", contacts);
    }
    hs_string_free(text);
}

static void network_report(void *opaque, QDict *json)
{
    Channel *c = opaque;
    hs_mediator_stats s = get_stats(c->run->network);
    g_autofree char *pcap = channel_file(c->run->member, "pcap");
    g_autofree char *vnet = channel_file(c->run->member, "vnet");
    QDict *channel = qdict_new();

    if (has_record(c)) {
        qdict_put_str(channel, "file", pcap);
        qdict_put_str(channel, "vnet", vnet);
        hotsnap_report_xxh3(channel, "pcap_xxh3", c->pcap_xxh3);
        hotsnap_report_xxh3(channel, "vnet_xxh3", c->vnet_xxh3);
    }
    qdict_put_int(channel, "frames", s.recorded);
    qdict_put_int(channel, "bytes", s.recorded_bytes);
    HOTSNAP_REPORT_COUNTERS(HS_MEDIATOR_COUNTERS, channel, s);
    report_contacts(c, channel);
    qdict_put(json, "channel", channel);
}

static void network_undo(void *opaque, const char *reason)
{
    Channel *c = opaque;
    g_autofree char *pcap = channel_file(c->run->folder, "pcap");
    g_autofree char *vnet = channel_file(c->run->folder, "vnet");

    unlink(pcap);
    unlink(vnet);
}

static void network_release(void *opaque)
{
    Channel *c = opaque;

    c->run->network->run = NULL;
}

const HotsnapPart hotsnap_network_part = {
    .name = "network",
    .contents = BIT(HOTSNAP_CONTENT_ALL) | BIT(HOTSNAP_CONTENT_DISKS),
    .colors = true,
    .begin = network_begin,
    .cut = network_cut,
    .resume = network_resume,
    .finish = network_finish,
    .report = network_report,
    .undo = network_undo,
    .release = network_release,
    .free = g_free,
};
