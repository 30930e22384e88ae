/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * hotsnap-cluster and hotsnap-restore as QEMU jobs. Main loop.
 */
#ifndef HOTSNAP_MONITOR_JOB_H
#define HOTSNAP_MONITOR_JOB_H

#include "qemu/coroutine.h"
#include "../types.h"

typedef enum HotsnapJobKind {
    HOTSNAP_JOB_CLUSTER,
    HOTSNAP_JOB_RESTORE,
} HotsnapJobKind;

/* Starts the run that @request asks the coordinator for. */
bool hotsnap_job_begin(HotsnapMember *m, const char *job_id,
                       HotsnapJobKind kind, const char *request,
                       Error **errp);

/* Of the job that is in progress, or NULL. */
const char *hotsnap_job_id(HotsnapMember *m);

/* Removes TAG.partial if it is empty. Takes @path. */
void coroutine_fn hotsnap_job_remove_partial(char *path);

void hotsnap_job_progress(HotsnapMember *m, uint64_t done, uint64_t total);
void hotsnap_job_finished(HotsnapMember *m, bool failed, const char *text);

#endif
