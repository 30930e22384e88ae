/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * HMP: hotsnap_cluster, info hotsnap.
 */
#include "qemu/osdep.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-hotsnap.h"
#include "qemu/cutils.h"
#include "qobject/qdict.h"
#include "qemu/job.h"

/* NAME=ADDRESS[,NAME=ADDRESS...] */
static HotsnapMemberAddressList *parse_members(const char *text, Error **errp)
{
    HotsnapMemberAddressList *list = NULL, **tail = &list;
    g_auto(GStrv) parts = g_strsplit(text ?: "", ",", -1);

    for (char **p = parts; *p; p++) {
        HotsnapMemberAddress *member;
        char *eq = strchr(*p, '=');

        if (!eq) {
            error_setg(errp, "'%s' is not NAME=ADDRESS", *p);
            qapi_free_HotsnapMemberAddressList(list);
            return NULL;
        }
        member = g_new0(HotsnapMemberAddress, 1);
        member->name = g_strndup(*p, eq - *p);
        member->address = g_strdup(eq + 1);
        QAPI_LIST_APPEND(tail, member);
    }
    return list;
}

/* HMP cannot dismiss jobs: an attempt that has ended is no obstacle. */
static void dismiss_ended(const char *id)
{
    Job *job;

    JOB_LOCK_GUARD();
    job = job_get_locked(id);
    if (job && job->status == JOB_STATUS_CONCLUDED) {
        job_dismiss_locked(&job, &error_abort);
    }
}

void coroutine_fn hmp_hotsnap_cluster(Monitor *mon, const QDict *qdict)
{
    const char *tag = qdict_get_str(qdict, "tag");
    g_autofree char *job = g_strdup_printf("hotsnap-%s", tag);
    HotsnapClusterArguments args = {
        .job_id = job,
        .tag = (char *)tag,
        .directory = (char *)qdict_get_str(qdict, "directory"),
    };
    const char *duration = qdict_get_try_str(qdict, "duration");
    Error *err = NULL;

    args.strict = qdict_get_try_bool(qdict, "strict", false);
    if (duration && qemu_strtod_finite(duration, NULL, &args.duration)) {
        error_setg(&err, "'%s' is no number of seconds", duration);
    } else {
        args.members = parse_members(qdict_get_try_str(qdict, "members"),
                                     &err);
    }
    if (!err) {
        dismiss_ended(job);
        qmp_hotsnap_cluster(&args, &err);
    }
    qapi_free_HotsnapMemberAddressList(args.members);
    hmp_handle_error(mon, err);
}

void hmp_info_hotsnap(Monitor *mon, const QDict *qdict)
{
    Error *err = NULL;
    g_autoptr(HotsnapInfo) info = qmp_query_hotsnap(&err);

    if (hmp_handle_error(mon, err)) {
        return;
    }
    if (!info->name) {
        monitor_printf(mon, "This VM is not a member of a cluster\n");
        return;
    }
    monitor_printf(mon, "member:  %s, listens at %s\n", info->name,
                   info->address);
    monitor_printf(mon, "phase:   %s, role %s, epoch %" PRIu64 "\n",
                   HotsnapPhase_str(info->phase), info->role, info->epoch);
    if (info->error) {
        monitor_printf(mon, "error:   %s\n", info->error);
    }
    if (info->snapshot) {
        HotsnapSnapshotInfo *s = info->snapshot;

        monitor_printf(mon, "tag:     %s\n", s->tag);
        if (s->engine) {
            monitor_printf(mon, "memory:  %" PRIu64 " of %" PRIu64
                           " MiB saved, engine %s\n", s->bytes_done >> 20,
                           s->bytes_total >> 20, s->engine);
        }
        if (s->pages) {
            monitor_printf(mon, "pages:   %" PRIu64 " background, %" PRIu64
                           " guest, %" PRIu64 " dma, %" PRIu64 " kvm; %" PRIu64
                           " zero\n", s->pages->background,
                           s->pages->guest_write, s->pages->dma_write,
                           s->pages->kvm_write, s->pages->zero);
        }
        if (s->content == HOTSNAP_CONTENT_DISKS) {
            monitor_printf(mon, "hold:    %" PRIu64 " us", s->hold_us);
        } else {
            monitor_printf(mon, "pause:   %" PRIu64 " us", s->pause_us);
        }
        for (HotsnapPauseStepList *p = s->pause_steps; p; p = p->next) {
            monitor_printf(mon, ", %s %" PRIu64, p->value->name,
                           p->value->us);
        }
        monitor_printf(mon, "\n");
    }
    if (info->mediator) {
        HotsnapMediatorInfo *i = info->mediator;

        monitor_printf(mon, "frames:  %" PRIu64 " held, %" PRIu64
                       " on the fly, %" PRIu64 " recorded, %" PRIu64
                       " lost\n", i->held, i->on_the_fly, i->recorded,
                       i->lost);
    }
    if (info->memory_load) {
        HotsnapMemoryLoadInfo *l = info->memory_load;

        monitor_printf(mon, "load:    %s, %" PRIu64 " of %" PRIu64
                       " pages absent\n", HotsnapMemoryLoadState_str(l->state),
                       l->remaining, l->total);
        if (l->failure) {
            monitor_printf(mon, "failure: %s\n", l->failure->message);
        }
    }
}
