/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * hotsnap-cluster, hotsnap-restore, hotsnap-set-bandwidth,
 * hotsnap-set-duration.
 */
#include "qemu/osdep.h"
#include "block/thread-pool.h"
#include "../guard.h"
#include "job.h"
#include "../lazy.h"
#include "../local.h"
#include "../member.h"
#include "../protocol.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-hotsnap.h"
#include "qapi/qapi-visit-hotsnap.h"
#include "qapi/qobject-output-visitor.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"
#include "system/hotsnap.h"

/*
 * Only waited out when a frame was lost. A time shorter than the scheduling
 * delays of a busy host would take a late frame for a lost one.
 */
#define DRAIN_MS 1000
#define DUMP_CUT_TIMEOUT_US (600 * 1000000LL)

#define LONGEST_DURATION_S (365 * 24 * 3600)
/* Linux gives a command of a disk 30 s. */
#define LONGEST_HOLD_MS 10000

/* Seconds to microseconds; 0 stands for none. */
static bool duration_us(double seconds, int64_t *us, Error **errp)
{
    if (!(seconds >= 0 && seconds <= LONGEST_DURATION_S)) { /* a NaN, too */
        error_setg(errp, "'duration' must be between 0 and %d seconds",
                   LONGEST_DURATION_S);
        return false;
    }
    *us = seconds * 1000000;
    return true;
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

/* Takes the name: the member that makes TAG.partial leads this snapshot. */
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

typedef struct Claim {
    const HotsnapClusterArguments *args;
    char *partial;
    Error *err;
} Claim;

static int claim_in_worker(void *opaque)
{
    Claim *c = opaque;

    c->partial = claim_tag(c->args->directory, c->args->tag, &c->err);
    return 0;
}

static bool may_begin(HotsnapMember *m, Error **errp)
{
    if (!hotsnap_guard_is_open(errp)) {
        return false;
    }
    if (hotsnap_member_refuses(errp, "hotsnap-cluster")) {
        return false;
    }
    if (hotsnap_job_id(m)) {
        error_setg(errp, "Job '%s' is in progress", hotsnap_job_id(m));
        return false;
    }
    return true;
}

/*
 * The options for each member, as they were given: this file knows none of
 * them.
 */
static QObject *options_json(HotsnapClusterArguments *args)
{
    HotsnapSnapshotOptions *options = qapi_HotsnapClusterArguments_base(args);
    QObject *json = NULL;
    Visitor *v = qobject_output_visitor_new(&json);

    visit_type_HotsnapSnapshotOptions(v, NULL, &options, &error_abort);
    visit_complete(v, &json);
    visit_free(v);
    return json;
}

/* An option that has no meaning with the content is a mistake. */
static bool check_content(const HotsnapClusterArguments *args, Error **errp)
{
    if (!args->has_content || args->content == HOTSNAP_CONTENT_ALL) {
        if (args->has_disks) {
            error_setg(errp, "'disks' needs 'content' \"disks\"; a snapshot "
                       "with memory is of all disks");
        } else if (args->has_cut || args->has_hold_timeout) {
            error_setg(errp, "'cut' and 'hold-timeout' need 'content' "
                       "\"disks\"; memory is saved in causal order only");
        }
        return !args->has_disks && !args->has_cut && !args->has_hold_timeout;
    }
    if (args->has_mode || args->has_engine || args->has_bandwidth ||
        args->has_duration || args->strict || args->x_dump ||
        args->has_x_open_trap) {
        error_setg(errp, "A snapshot of disks copies no memory: leave out "
                   "'mode', 'engine', 'bandwidth', 'duration' and 'strict'");
        return false;
    }
    return true;
}

/* The copies that a duration could spread are made while the VMs run. */
static bool check_mode(const HotsnapClusterArguments *args, Error **errp)
{
    if (args->duration && args->has_mode && args->mode != HOTSNAP_MODE_HOT) {
        error_setg(errp, "'duration' is for 'mode' \"hot\"; leave one of the "
                   "two out");
        return false;
    }
    if (args->has_mode && args->mode == HOTSNAP_MODE_PRECOPY &&
        args->has_engine && args->engine == HOTSNAP_ENGINE_KVM) {
        error_setg(errp, "Engine 'kvm' cannot copy memory before the cut; "
                   "use engine 'uffd', or another 'mode' than \"precopy\"");
        return false;
    }
    return true;
}

/* So is one that has none with the cut. */
static bool check_cut(const HotsnapClusterArguments *args, Error **errp)
{
    bool barrier = args->has_cut && args->cut == HOTSNAP_CUT_BARRIER;

    if (!barrier && args->has_hold_timeout) {
        error_setg(errp, "'hold-timeout' needs 'cut' \"barrier\"; in causal "
                   "order no member waits for another");
        return false;
    }
    if (barrier && (args->has_coloring || args->has_drain_ms)) {
        error_setg(errp, "A barrier colors no frames: leave out 'coloring' "
                   "and 'drain-ms'");
        return false;
    }
    if (args->has_hold_timeout &&
        (!args->hold_timeout || args->hold_timeout > LONGEST_HOLD_MS)) {
        error_setg(errp, "'hold-timeout' must be between 1 and %d "
                   "milliseconds; longer, and guests take their disks for "
                   "broken", LONGEST_HOLD_MS);
        return false;
    }
    return true;
}

static char *snapshot_request(HotsnapClusterArguments *args,
                              int64_t duration_us)
{
    g_autoptr(QDict) request = qdict_new();
    g_autoptr(GString) text = NULL;

    qdict_put_str(request, "tag", args->tag);
    qdict_put_str(request, "directory", args->directory);
    qdict_put(request, "members", members_json(args->members));
    qdict_put_bool(request, "coloring",
                   !args->has_coloring || args->coloring);
    qdict_put_int(request, "drain_us",
                  (args->has_drain_ms ? args->drain_ms : DRAIN_MS) * 1000LL);
    qdict_put_int(request, "duration_us", duration_us);
    qdict_put_bool(request, "strict", args->strict);
    if (args->has_content) {
        qdict_put_str(request, "content", HotsnapContent_str(args->content));
    }
    if (args->has_mode) {
        qdict_put_str(request, "mode", HotsnapMode_str(args->mode));
    }
    if (args->has_cut) {
        qdict_put_str(request, "cut", HotsnapCut_str(args->cut));
    }
    if (args->has_hold_timeout) {
        qdict_put_int(request, "hold_us", args->hold_timeout * 1000LL);
    }
    if (args->x_dump) {
        /* The pause is O(RAM): no member must give up waiting for it. */
        qdict_put_int(request, "cut_timeout_us", DUMP_CUT_TIMEOUT_US);
    }
    qdict_put_obj(request, "options", options_json(args));
    text = qobject_to_json(QOBJECT(request));
    return g_strdup(text->str);
}

void coroutine_fn qmp_hotsnap_cluster(HotsnapClusterArguments *args,
                                      Error **errp)
{
    HotsnapMember *m = hotsnap_member(errp);
    g_autofree char *request = NULL;
    Claim claim = { .args = args };
    int64_t duration = 0;

    if (!m || !may_begin(m, errp) || !check_content(args, errp) ||
        !check_mode(args, errp) || !check_cut(args, errp) ||
        !duration_us(args->duration, &duration, errp)) {
        return;
    }
    if (args->strict && !duration) {
        error_setg(errp, "'strict' needs a 'duration'");
        return;
    }
    /* In a worker: the storage may stall, which must not stop the VM. */
    m->claims++;
    thread_pool_submit_co(claim_in_worker, &claim);
    m->claims--;
    if (!claim.partial) {
        error_propagate(errp, claim.err);
        return;
    }
    if (may_begin(m, errp)) { /* still */
        request = snapshot_request(args, duration);
        m->job_partial = claim.partial;
        if (hotsnap_job_begin(m, args->job_id, HOTSNAP_JOB_CLUSTER, request,
                              errp)) {
            return;
        }
        m->job_partial = NULL;
    }
    hotsnap_job_remove_partial(claim.partial);
}

static QObject *restore_options_json(HotsnapRestoreArguments *args)
{
    HotsnapRestoreOptions *options = qapi_HotsnapRestoreArguments_base(args);
    QObject *json = NULL;
    Visitor *v = qobject_output_visitor_new(&json);

    visit_type_HotsnapRestoreOptions(v, NULL, &options, &error_abort);
    visit_complete(v, &json);
    visit_free(v);
    return json;
}

void qmp_hotsnap_restore(HotsnapRestoreArguments *args, Error **errp)
{
    HotsnapMember *m = hotsnap_member(errp);
    g_autoptr(QDict) request = qdict_new();
    g_autoptr(GString) text = NULL;

    if (!m || hotsnap_refuses(errp, "hotsnap-restore")) {
        return;
    }
    qdict_put_str(request, "bundle", args->bundle);
    qdict_put(request, "members", members_json(args->members));
    qdict_put_obj(request, "options", restore_options_json(args));
    text = qobject_to_json(QOBJECT(request));
    hotsnap_job_begin(m, args->job_id, HOTSNAP_JOB_RESTORE, text->str, errp);
}

void qmp_hotsnap_set_duration(double seconds, Error **errp)
{
    HotsnapMember *m = hotsnap_member(errp);
    int64_t us;

    if (m && duration_us(seconds, &us, errp)) {
        hotsnap_protocol_set_duration(m->protocol, us, errp);
    }
}

void qmp_hotsnap_set_bandwidth(uint64_t bandwidth, Error **errp)
{
    HotsnapMember *m = hotsnap_member(errp);

    if (m && !hotsnap_local_set_bandwidth(m->local, bandwidth) &&
        !hotsnap_lazy_set_bandwidth(bandwidth)) {
        error_setg(errp, "No snapshot is in progress, and no memory is being "
                   "loaded; both take their limit from the 'bandwidth' of "
                   "hotsnap-cluster or hotsnap-restore");
    }
}
