/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The job's coroutine only waits: the coordinator has the run. A cancel is
 * passed on, and the job ends when the coordinator says that all is undone.
 */
#include "qemu/osdep.h"
#include "block/thread-pool.h"
#include "job.h"
#include "../protocol.h"
#include "qapi/error.h"
#include "qemu/coroutine.h"
#include "qemu/job.h"
#include "qemu/main-loop.h"

#define JOB_POLL_NS (5 * SCALE_MS)

typedef struct HotsnapJob {
    Job common;
    HotsnapMember *member;
    bool finished;
    bool cancel_told;
    uint64_t done;         /* progress told to the job */
    char *error;
} HotsnapJob;

static int remove_partial(void *opaque)
{
    /* It is gone after a success; else empty, or kept by a peer in doubt. */
    rmdir(opaque);
    return 0;
}

void coroutine_fn hotsnap_job_remove_partial(char *path)
{
    /* Not here: its storage may stand still, which must not stop a VM. */
    thread_pool_submit_co(remove_partial, path);
    g_free(path);
}

static int coroutine_fn hotsnap_job_run(Job *job, Error **errp)
{
    HotsnapJob *j = container_of(job, HotsnapJob, common);
    HotsnapMember *m = j->member;

    while (!j->finished) {
        if (job_cancel_requested(job) && !j->cancel_told) {
            j->cancel_told = true;
            hotsnap_protocol_cancel(m->protocol);
        }
        job_sleep_ns(job, JOB_POLL_NS);
    }
    if (m->job_partial) {
        hotsnap_job_remove_partial(g_steal_pointer(&m->job_partial));
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

bool hotsnap_job_begin(HotsnapMember *m, const char *job_id,
                       HotsnapJobKind kind, const char *request, Error **errp)
{
    bool restore = kind == HOTSNAP_JOB_RESTORE;
    HotsnapJob *j;

    if (m->job) {
        error_setg(errp, "Job '%s' is in progress; wait for it to end or "
                   "cancel it", m->job->common.id);
        return false;
    }
    j = job_create(job_id, restore ? &restore_driver : &cluster_driver, NULL,
                   qemu_get_aio_context(), JOB_MANUAL_DISMISS, NULL, NULL,
                   errp);
    if (!j) {
        return false;
    }
    j->member = m;
    object_ref(OBJECT(m));
    m->job = j;
    if (restore ? !hotsnap_protocol_restore(m->protocol, request, errp)
                : !hotsnap_protocol_snapshot(m->protocol, request, errp)) {
        m->job = NULL;
        job_early_fail(&j->common);
        return false;
    }
    job_start(&j->common);
    return true;
}

const char *hotsnap_job_id(HotsnapMember *m)
{
    return m->job ? m->job->common.id : NULL;
}
