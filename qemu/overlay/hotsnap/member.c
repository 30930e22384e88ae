/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "lazy.h"
#include "local.h"
#include "member.h"
#include "monitor/job.h"
#include "protocol.h"
#include "qapi/error.h"
#include "qapi/qapi-events-hotsnap.h"
#include "qapi/util.h"
#include "qemu/main-loop.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qom/object_interfaces.h"
#include "system/hotsnap.h"

static HotsnapMember *the_member;

HotsnapMember *hotsnap_member(Error **errp)
{
    if (!the_member) {
        error_setg(errp, "This VM is not a member of a cluster; start QEMU "
                   "with -object "
                   "hotsnap-member,id=ID,name=NAME,listen=unix:PATH");
    }
    return the_member;
}

bool hotsnap_member_refuses(Error **errp, const char *what)
{
    if (the_member && hotsnap_local_busy(the_member->local)) {
        error_setg(errp, "%s is not allowed during a cluster snapshot or "
                   "restore; wait for it to end or cancel its job", what);
        return true;
    }
    return false;
}

bool hotsnap_refuses(Error **errp, const char *what)
{
    if (hotsnap_member_refuses(errp, what)) {
        return true;
    }
    if (hotsnap_lazy_loading()) {
        error_setg(errp, "%s is not allowed while the memory of a restored "
                   "VM is being loaded; wait until query-hotsnap tells that "
                   "it is complete", what);
        return true;
    }
    return false;
}

/* News of the coordinator for the user of this member. */

static void say_phase(HotsnapMember *m, QDict *say)
{
    const char *name = qdict_get_try_str(say, "phase");
    const char *reason = qdict_get_try_str(say, "reason");
    const char *tag = qdict_get_try_str(say, "tag") ?: "";
    const char *role = qdict_get_try_str(say, "role") ?: "none";
    int phase = qapi_enum_parse(&HotsnapPhase_lookup, name, -1, NULL);

    if (phase < 0) {
        return;
    }
    m->phase = phase;
    m->epoch = qdict_get_try_int(say, "epoch", 0);
    hotsnap_local_set_epoch(m->local, m->epoch);
    g_free(m->role);
    m->role = g_strdup(role);
    if (reason && *reason) {
        g_free(m->error);
        m->error = g_strdup(reason);
    } else if (phase == HOTSNAP_PHASE_PREPARE ||
               phase == HOTSNAP_PHASE_LOAD) {
        g_clear_pointer(&m->error, g_free);
    }
    qapi_event_send_hotsnap_phase(phase, role, m->epoch, tag, reason);
}

static void say_warning(QDict *say)
{
    qapi_event_send_hotsnap_warning(qdict_get_try_str(say, "message") ?: "",
                                    qdict_get_try_int(say, "epoch", 0),
                                    qdict_get_try_str(say, "tag") ?: "");
}

typedef struct Saying {
    HotsnapMember *member;
    hs_action_kind kind;
    char *text;
    bool failed;
} Saying;

static void say(void *opaque)
{
    Saying *s = opaque;
    QObject *parsed = s->kind == HS_SAY_FINISHED
                      ? NULL : qobject_from_json(s->text, NULL);
    QDict *json = qobject_to(QDict, parsed);

    if (s->kind == HS_SAY_FINISHED) {
        hotsnap_job_finished(s->member, s->failed, s->text);
    } else if (json && s->kind == HS_SAY_PHASE) {
        say_phase(s->member, json);
    } else if (json && s->kind == HS_SAY_WARNING) {
        say_warning(json);
    } else if (json && s->kind == HS_SAY_PROGRESS) {
        hotsnap_job_progress(s->member, qdict_get_try_int(json, "done", 0),
                             qdict_get_try_int(json, "total", 0));
    }
    qobject_unref(parsed);
    g_free(s->text);
    g_free(s);
}

/* Iothread. */
static void protocol_say(void *opaque, hs_action_kind kind, const char *text,
                         bool failed)
{
    HotsnapMember *m = opaque;
    Saying *s = g_new0(Saying, 1);

    s->member = m;
    s->kind = kind;
    s->text = g_strdup(text);
    s->failed = failed;
    hotsnap_queue_post(m->main, say, s);
}

/* Iothread. */
static void protocol_work(void *opaque, hs_work *work)
{
    HotsnapMember *m = opaque;

    hotsnap_local_work(m->local, work);
}

static const HotsnapProtocolOps protocol_ops = {
    .work = protocol_work,
    .say = protocol_say,
};

static void local_event(void *opaque, hs_event *event)
{
    HotsnapMember *m = opaque;

    if (m->protocol) {
        hotsnap_protocol_event(m->protocol, event);
    } else {
        hs_event_free(event); /* the member goes */
    }
}

static int local_iothread_tid(void *opaque)
{
    HotsnapMember *m = opaque;

    return hotsnap_protocol_thread_id(m->protocol);
}

static const HotsnapLocalOps local_ops = {
    .event = local_event,
    .iothread_tid = local_iothread_tid,
};

/* The object. */

static void hotsnap_member_complete(UserCreatable *uc, Error **errp)
{
    HotsnapMember *m = HOTSNAP_MEMBER(uc);

    if (the_member) {
        error_setg(errp, "Only one hotsnap-member object can exist");
        return;
    }
    if (!m->name || !m->listen) {
        error_setg(errp, "hotsnap-member needs both 'name' and 'listen'");
        return;
    }
    m->main = hotsnap_queue_new(qemu_get_aio_context(), OBJECT(m));
    if (!hotsnap_network_init(&m->network, OBJECT(m), errp)) {
        return;
    }
    m->local = hotsnap_local_new(m->name, &m->network, m->main, &local_ops, m,
                                 errp);
    if (!m->local) {
        return;
    }
    m->protocol = hotsnap_protocol_new(m->name, m->listen, &protocol_ops, m,
                                       errp);
    if (m->protocol) {
        the_member = m;
    }
}

static bool hotsnap_member_can_be_deleted(UserCreatable *uc)
{
    HotsnapMember *m = HOTSNAP_MEMBER(uc);

    return !m->local || (!hotsnap_local_busy(m->local) && !m->job &&
                         !hotsnap_lazy_loading() &&
                         !m->claims && hotsnap_network_is_unused(&m->network));
}

/*
 * Before the last reference goes: from here on the iothread posts nothing to
 * the main loop's queue. Items that wait there keep the object alive until
 * they are done.
 */
static void hotsnap_member_unparent(Object *obj)
{
    HotsnapMember *m = HOTSNAP_MEMBER(obj);

    if (the_member == m) {
        the_member = NULL;
    }
    if (m->local) {
        hotsnap_local_close(m->local);
    }
    g_clear_pointer(&m->protocol, hotsnap_protocol_free);
}

static void hotsnap_member_finalize(Object *obj)
{
    HotsnapMember *m = HOTSNAP_MEMBER(obj);

    hotsnap_protocol_free(m->protocol); /* it never had a parent */
    hotsnap_local_free(m->local);
    hotsnap_network_clear(&m->network);
    hotsnap_queue_free(m->main);
    g_free(m->name);
    g_free(m->listen);
    g_free(m->role);
    g_free(m->error);
    g_free(m->job_partial);
}

static char *member_get_name(Object *obj, Error **errp)
{
    return g_strdup(HOTSNAP_MEMBER(obj)->name);
}

static void member_set_name(Object *obj, const char *value, Error **errp)
{
    HotsnapMember *m = HOTSNAP_MEMBER(obj);

    if (m->main) {
        error_setg(errp, "The name of a member cannot be changed");
        return;
    }
    g_free(m->name);
    m->name = g_strdup(value);
}

static char *member_get_listen(Object *obj, Error **errp)
{
    return g_strdup(HOTSNAP_MEMBER(obj)->listen);
}

static void member_set_listen(Object *obj, const char *value, Error **errp)
{
    HotsnapMember *m = HOTSNAP_MEMBER(obj);

    if (m->main) {
        error_setg(errp, "The address of a member cannot be changed");
        return;
    }
    g_free(m->listen);
    m->listen = g_strdup(value);
}

static void hotsnap_member_init(Object *obj)
{
    HOTSNAP_MEMBER(obj)->role = g_strdup("none");
}

static void hotsnap_member_class_init(ObjectClass *oc, void *data)
{
    UserCreatableClass *ucc = USER_CREATABLE_CLASS(oc);

    oc->unparent = hotsnap_member_unparent;
    ucc->complete = hotsnap_member_complete;
    ucc->can_be_deleted = hotsnap_member_can_be_deleted;
    object_class_property_add_str(oc, "name", member_get_name,
                                  member_set_name);
    object_class_property_add_str(oc, "listen", member_get_listen,
                                  member_set_listen);
}

static const TypeInfo hotsnap_member_info = {
    .name = TYPE_HOTSNAP_MEMBER,
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(HotsnapMember),
    .instance_init = hotsnap_member_init,
    .instance_finalize = hotsnap_member_finalize,
    .class_init = hotsnap_member_class_init,
    .interfaces = (InterfaceInfo[]) {
        { TYPE_USER_CREATABLE },
        { }
    },
};

static void hotsnap_member_register(void)
{
    type_register_static(&hotsnap_member_info);
}

type_init(hotsnap_member_register);
