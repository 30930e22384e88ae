/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * hotsnap-cluster and hotsnap-restore, as Jobs.
 *
 * The job's coroutine only waits: the epoch is the coordinator's. A cancel
 * is passed on, and the job ends when the coordinator says that all is
 * undone.
 */
#include "qemu/osdep.h"
#include "internal.h"
#include "block/thread-pool.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-hotsnap.h"
#include "qemu/coroutine.h"
#include "qemu/job.h"
#include "qobject/qjson.h"

#define JOB_POLL_NS (5 * SCALE_MS)
/*
 * Only waited out when a frame was lost; short of a busy host's scheduling
 * delays a late frame would be taken for a lost one.
 */
#define DRAIN_MS 1000

typedef struct HotsnapJob {
    Job common;
    HotsnapMember *member;
    bool finished;
    bool cancel_told;
    uint64_t done;         /* progress told to the job */
    char *error;
} HotsnapJob;

typedef struct CoordinatorCall {
    HotsnapMember *member;
    bool (*start)(hs_coordinator *, const char *, uint64_t, char **);
    const char *request;
    char *error;
    bool ok;
} CoordinatorCall;

static void start_bh(void *opaque)
{
    CoordinatorCall *c = opaque;
    HotsnapMember *m = c->member;

    c->ok = c->start(m->coordinator, c->request, hotsnap_now_us(), &c->error);
    hotsnap_dispatch(m);
}

static void cancel_bh(void *opaque)
{
    HotsnapMember *m = opaque;

    hs_coordinator_cancel(m->coordinator, "by the user",
                          hotsnap_now_us());
    hotsnap_dispatch(m);
    object_unref(OBJECT(m));
}

static int remove_partial(void *opaque)
{
    /* Gone after a success; else empty, or kept by a peer in doubt. */
    rmdir(opaque);
    return 0;
}

static int coroutine_fn hotsnap_job_run(Job *job, Error **errp)
{
    HotsnapJob *j = container_of(job, HotsnapJob, common);
    HotsnapMember *m = j->member;

    while (!j->finished) {
        if (job_cancel_requested(job) && !j->cancel_told) {
            j->cancel_told = true;
            object_ref(OBJECT(m));
            aio_bh_schedule_oneshot(m->ctx, cancel_bh, m);
        }
        job_sleep_ns(job, JOB_POLL_NS);
    }
    if (m->job_partial) {
        /* Not here: its storage may stand still, which must not stop a VM. */
        thread_pool_submit_co(remove_partial, m->job_partial);
        g_clear_pointer(&m->job_partial, g_free);
    }
    m->job = NULL;
    if (j->error) {
        error_setg(errp, "%s", j->error);
        return job_cancel_requested(job) ? -ECANCELED : -EIO;
    }
    return 0;
}

/*
 * Never by force: a cancel can come too late, and a job whose snapshot exists
 * must not end with an error.
 */
static bool hotsnap_job_cancel(Job *job, bool force)
{
    return false;
}

static void hotsnap_job_free(Job *job)
{
    HotsnapJob *j = container_of(job, HotsnapJob, common);

    object_unref(OBJECT(j->member));
    g_free(j->error);
}

static const JobDriver cluster_driver = {
    .instance_size = sizeof(HotsnapJob),
    .job_type = JOB_TYPE_HOTSNAP_CLUSTER,
    .run = hotsnap_job_run,
    .cancel = hotsnap_job_cancel,
    .free = hotsnap_job_free,
};

static const JobDriver restore_driver = {
    .instance_size = sizeof(HotsnapJob),
    .job_type = JOB_TYPE_HOTSNAP_RESTORE,
    .run = hotsnap_job_run,
    .cancel = hotsnap_job_cancel,
    .free = hotsnap_job_free,
};

void hotsnap_job_progress(HotsnapMember *m, uint64_t done, uint64_t total)
{
    HotsnapJob *j = m->job;

    if (j && done >= j->done) {
        job_progress_update(&j->common, done - j->done);
        job_progress_set_remaining(&j->common,
                                   total > done ? total - done : 0);
        j->done = done;
    }
}

void hotsnap_job_finished(HotsnapMember *m, bool failed, const char *text)
{
    if (m->job) {
        m->job->error = failed ? g_strdup(text) : NULL;
        m->job->finished = true;
    }
}

static void job_begin(HotsnapMember *m, const char *job_id,
                      const JobDriver *driver, CoordinatorCall *call,
                      Error **errp)
{
    HotsnapJob *j;

    if (m->job) {
        error_setg(errp, "Job '%s' is in progress; wait for it to end or "
                   "cancel it", m->job->common.id);
        return;
    }
    j = job_create(job_id, driver, NULL, qemu_get_aio_context(),
                   JOB_MANUAL_DISMISS, NULL, NULL, errp);
    if (!j) {
        return;
    }
    j->member = m;
    object_ref(OBJECT(m));
    m->job = j;
    aio_wait_bh_oneshot(m->ctx, start_bh, call);
    if (!call->ok) {
        error_setg(errp, "%s", call->error);
        hs_string_free(call->error);
        m->job = NULL;
        job_early_fail(&j->common);
        return;
    }
    job_start(&j->common);
}

static QList *members_json(HotsnapMemberAddressList *list)
{
    QList *members = qlist_new();

    for (; list; list = list->next) {
        QDict *member = qdict_new();

        qdict_put_str(member, "name", list->value->name);
        qdict_put_str(member, "address", list->value->address);
        qlist_append(members, member);
    }
    return members;
}

/* Takes the name: whoever makes TAG.partial leads this snapshot. */
static char *claim_tag(const char *directory, const char *tag, Error **errp)
{
    g_autofree char *final = g_build_filename(directory, tag, NULL);
    g_autofree char *partial = g_strdup_printf("%s.partial", final);

    if (!*tag || strchr(tag, '/') || *tag == '.' || strlen(tag) > 200) {
        error_setg(errp, "'%s' is no name for a snapshot: use a file name "
                   "that does not begin with a dot", tag);
        return NULL;
    }
    if (!g_path_is_absolute(directory)) {
        error_setg(errp, "Directory '%s' is not an absolute path", directory);
        return NULL;
    }
    if (!access(final, F_OK)) {
        error_setg(errp, "Snapshot '%s' exists already; use another tag, or "
                   "remove it first", final);
        return NULL;
    }
    if (mkdir(partial, 0700)) {
        if (errno == EEXIST) {
            error_setg(errp, "'%s' exists: a snapshot with this tag is being "
                       "made, or one was interrupted; if nobody is making it, "
                       "remove it", partial);
        } else {
            error_setg(errp, "Cannot create folder '%s': %s; choose a "
                       "directory that exists and that QEMU can write to",
                       partial, strerror(errno));
        }
        return NULL;
    }
    return g_steal_pointer(&partial);
}

void qmp_hotsnap_cluster(const char *job_id, const char *tag,
                         const char *directory,
                         HotsnapMemberAddressList *members, bool has_engine,
                         HotsnapEngine engine, bool has_bandwidth,
                         uint64_t bandwidth, bool has_coloring, bool coloring,
                         bool has_drain_ms, uint32_t drain_ms,
                         const char *overlay_directory, bool has_x_dump,
                         bool x_dump, bool has_x_open_trap,
                         HotsnapTrap x_open_trap, Error **errp)
{
    ERRP_GUARD();
    HotsnapMember *m = hotsnap_member(errp);
    CoordinatorCall call = { .member = m, .start = hs_coordinator_snapshot };
    g_autoptr(QDict) request = qdict_new();
    g_autoptr(GString) text = NULL;
    QDict *options;

    if (!m || hotsnap_refuses(errp, "hotsnap-cluster")) {
        return;
    }
    if (m->job) {
        error_setg(errp, "Job '%s' is in progress", m->job->common.id);
        return;
    }
    m->job_partial = claim_tag(directory, tag, errp);
    if (!m->job_partial) {
        return;
    }
    options = qdict_new();
    qdict_put_str(options, "engine",
                  HotsnapEngine_str(has_engine ? engine
                                               : HOTSNAP_ENGINE_AUTO));
    qdict_put_int(options, "bandwidth", has_bandwidth ? bandwidth : 0);
    qdict_put_bool(options, "dump", has_x_dump && x_dump);
    if (has_x_open_trap) {
        qdict_put_str(options, "open-trap", HotsnapTrap_str(x_open_trap));
    }
    if (overlay_directory) {
        qdict_put_str(options, "overlay-directory", overlay_directory);
    }
    qdict_put_str(request, "tag", tag);
    qdict_put_str(request, "directory", directory);
    qdict_put(request, "members", members_json(members));
    qdict_put_bool(request, "coloring", !has_coloring || coloring);
    qdict_put_int(request, "drain_us",
                  (has_drain_ms ? drain_ms : DRAIN_MS) * 1000LL);
    if (has_x_dump && x_dump) {
        /* The pause is O(RAM): nobody must give up waiting for it. */
        qdict_put_int(request, "cut_timeout_us", 600 * 1000000LL);
    }
    qdict_put(request, "options", options);
    text = qobject_to_json(QOBJECT(request));
    call.request = text->str;
    job_begin(m, job_id, &cluster_driver, &call, errp);
    if (*errp) {
        rmdir(m->job_partial);
        g_clear_pointer(&m->job_partial, g_free);
    }
}

void qmp_hotsnap_restore(const char *job_id, const char *bundle,
                         HotsnapMemberAddressList *members, Error **errp)
{
    HotsnapMember *m = hotsnap_member(errp);
    CoordinatorCall call = { .member = m, .start = hs_coordinator_restore };
    g_autoptr(QDict) request = qdict_new();
    g_autoptr(GString) text = NULL;

    if (!m || hotsnap_refuses(errp, "hotsnap-restore")) {
        return;
    }
    qdict_put_str(request, "bundle", bundle);
    qdict_put(request, "members", members_json(members));
    text = qobject_to_json(QOBJECT(request));
    call.request = text->str;
    job_begin(m, job_id, &restore_driver, &call, errp);
}
