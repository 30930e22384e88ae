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
#include "qapi/visitor.h"
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

typedef struct Authorization {
    HotsnapMember *member;
    hs_link link;
    char *identity;
} Authorization;

static void authorize(void *opaque)
{
    Authorization *a = opaque;
    HotsnapMember *m = a->member;
    Error *err = NULL;

    if (m->protocol) { /* else the member goes */
        hotsnap_tls_authorize(m->tls, a->identity, &err);
        hotsnap_protocol_authorized(m->protocol, a->link,
                                    err ? error_get_pretty(err) : NULL);
    }
    error_free(err);
    g_free(a->identity);
    g_free(a);
}

/* Iothread. */
static void protocol_authorize(void *opaque, hs_link link,
                               const char *identity)
{
    HotsnapMember *m = opaque;
    Authorization *a = g_new0(Authorization, 1);

    a->member = m;
    a->link = link;
    a->identity = g_strdup(identity);
    hotsnap_queue_post(m->main, authorize, a);
}

static const HotsnapProtocolOps protocol_ops = {
    .work = protocol_work,
    .say = protocol_say,
    .authorize = protocol_authorize,
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
    m->tls = hotsnap_tls_new(&m->tls_options, errp);
    if (!m->tls) {
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
    m->protocol = hotsnap_protocol_new(m->name, m->listen, m->tls,
                                       &protocol_ops, m, errp);
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
    g_free(m->labels);
    g_free(m->tls_options.creds);
    g_free(m->tls_options.creds_client);
    g_free(m->tls_options.authz);
    hotsnap_tls_free(m->tls);
    g_free(m->role);
    g_free(m->error);
    g_free(m->job_partial);
}

/* A property that is text. */
typedef struct MemberText {
    const char *property;
    size_t offset;
    bool can_change; /* once the member exists */
} MemberText;

static const MemberText member_texts[] = {
    { "name", offsetof(HotsnapMember, name) },
    { "listen", offsetof(HotsnapMember, listen) },
    { "tls-creds", offsetof(HotsnapMember, tls_options.creds) },
    { "tls-creds-client", offsetof(HotsnapMember, tls_options.creds_client) },
    { "tls-authz", offsetof(HotsnapMember, tls_options.authz) },
    { "labels", offsetof(HotsnapMember, labels), .can_change = true },
};

static void member_get_text(Object *obj, Visitor *v, const char *property,
                            void *opaque, Error **errp)
{
    const MemberText *text = opaque;
    char **value = (void *)obj + text->offset;
    char *shown = *value ?: (char *)"";

    visit_type_str(v, property, &shown, errp);
}

static void member_set_text(Object *obj, Visitor *v, const char *property,
                            void *opaque, Error **errp)
{
    const MemberText *text = opaque;
    char **value = (void *)obj + text->offset;
    char *given;

    if (HOTSNAP_MEMBER(obj)->main && !text->can_change) {
        error_setg(errp, "The '%s' of a member cannot be changed", property);
        return;
    }
    if (visit_type_str(v, property, &given, errp)) {
        g_free(*value);
        *value = given;
    }
}

static bool member_get_insecure(Object *obj, Error **errp)
{
    return HOTSNAP_MEMBER(obj)->tls_options.insecure;
}

static void member_set_insecure(Object *obj, bool value, Error **errp)
{
    if (HOTSNAP_MEMBER(obj)->main) {
        error_setg(errp, "'insecure' of a member cannot be changed");
        return;
    }
    HOTSNAP_MEMBER(obj)->tls_options.insecure = value;
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
    for (size_t i = 0; i < ARRAY_SIZE(member_texts); i++) {
        object_class_property_add(oc, member_texts[i].property, "string",
                                  member_get_text, member_set_text, NULL,
                                  (void *)&member_texts[i]);
    }
    object_class_property_add_bool(oc, "insecure", member_get_insecure,
                                   member_set_insecure);
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
