/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object hotsnap-member, for its files. The logic lives in two libraries
 * (hotsnap/snapshot.h, hotsnap/coordinator.h, hotsnap/member.h,
 * hotsnap/mediator.h); the code here owns sockets, threads, disks and the
 * pause.
 *
 * Threads
 *   main loop   under the BQL: the mediator, the local life of a run, disks,
 *               the pause, commands. It alone uses the fields here.
 *   iothread    the coordinator and its connections (protocol.h).
 *   part.h names the other threads.
 */
#ifndef HOTSNAP_TYPES_H
#define HOTSNAP_TYPES_H

#include "parts/network.h"
#include "qapi/qapi-types-hotsnap.h"
#include "qom/object.h"
#include "queue.h"
#include "transport/tls.h"

#define TYPE_HOTSNAP_MEMBER "hotsnap-member"
OBJECT_DECLARE_SIMPLE_TYPE(HotsnapMember, HOTSNAP_MEMBER)

struct HotsnapMember {
    Object parent_obj;

    char *name;
    char *listen;
    char *labels;
    HotsnapTlsOptions tls_options;
    HotsnapTls *tls;         /* the iothread reads it, too */

    HotsnapQueue *main;      /* work for the main loop */
    HotsnapNetwork network;
    struct HotsnapLocal *local;
    struct HotsnapProtocol *protocol;

    struct HotsnapJob *job;  /* monitor/job.c */
    char *job_partial;       /* TAG.partial made for the job */
    unsigned claims;         /* commands that are making such a folder */

    /* As the coordinator last said. */
    HotsnapPhase phase;
    char *role;
    uint64_t epoch;
    char *error;
};

#endif
