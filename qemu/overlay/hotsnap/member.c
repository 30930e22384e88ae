/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * -object hotsnap-member: this VM as a member of cluster snapshots. It
 * listens from its launch and can be initiator or peer of any epoch.
 */
#include "qemu/osdep.h"
#include "internal.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qom/object_interfaces.h"

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

bool hotsnap_refuses(Error **errp, const char *what)
{
    if (the_member && (the_member->epoch || the_member->restoring ||
                       the_member->restored)) {
        error_setg(errp, "%s is not allowed during a cluster snapshot or "
                   "restore; wait for it to end or cancel its job", what);
        return true;
    }
    return false;
}

int64_t hotsnap_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

uint64_t hotsnap_now_us(void)
{
    return hotsnap_now_ns() / 1000;
}

static void member_tick(void *opaque)
{
    HotsnapMember *m = opaque;

    hs_coordinator_tick(m->coordinator, hotsnap_now_us());
    hotsnap_dispatch(m);
}

static void hotsnap_member_complete(UserCreatable *uc, Error **errp)
{
    HotsnapMember *m = HOTSNAP_MEMBER(uc);
    char *error = NULL;

    if (the_member) {
        error_setg(errp, "Only one hotsnap-member object can exist");
        return;
    }
    if (!m->name || !m->listen) {
        error_setg(errp, "hotsnap-member needs both 'name' and 'listen'");
        return;
    }
    m->coordinator = hs_coordinator_new(m->name, &error);
    if (!m->coordinator) {
        error_setg(errp, "%s", error);
        hs_string_free(error);
        return;
    }
    m->mediator = hs_mediator_new();
    if (!m->mediator) {
        error_setg(errp, "There is no memory for the packet mediator");
        return;
    }
    m->iothread = iothread_create("hotsnap", errp);
    if (!m->iothread) {
        return;
    }
    m->ctx = iothread_get_aio_context(m->iothread);
    m->gctx = iothread_get_g_main_context(m->iothread);
    m->timer = aio_timer_new(m->ctx, QEMU_CLOCK_REALTIME, SCALE_US,
                             member_tick, m);
    hotsnap_standstill_init(m);
    if (!hotsnap_links_listen(m, errp)) {
        return;
    }
    the_member = m;
}

static void member_stop_bh(void *opaque)
{
    HotsnapMember *m = opaque;

    hotsnap_links_close(m);
    timer_free(m->timer);
    m->timer = NULL;
    timer_free(m->watch);
    m->watch = NULL;
}

static bool hotsnap_member_can_be_deleted(UserCreatable *uc)
{
    HotsnapMember *m = HOTSNAP_MEMBER(uc);

    return !m->epoch && !m->restoring && !m->restored && !m->load_timer &&
           !m->job && QTAILQ_EMPTY(&m->filters);
}

static void hotsnap_member_finalize(Object *obj)
{
    HotsnapMember *m = HOTSNAP_MEMBER(obj);

    if (m->iothread) {
        aio_wait_bh_oneshot(m->ctx, member_stop_bh, m);
        iothread_destroy(m->iothread);
    }
    if (the_member == m) {
        the_member = NULL;
    }
    qemu_mutex_destroy(&m->main_lock);
    qemu_mutex_destroy(&m->stop_lock);
    if (m->freer_started) {
        qemu_thread_join(&m->freer);
    }
    hs_coordinator_free(m->coordinator);
    hs_mediator_free(m->mediator);
    g_clear_pointer(&m->links, g_hash_table_unref);
    qapi_free_HotsnapSnapshotInfo(m->last);
    g_free(m->name);
    g_free(m->listen);
    g_free(m->role);
    g_free(m->tag);
    g_free(m->error);
    g_free(m->job_partial);
    g_free(m->restore_folder);
}

static char *member_get_name(Object *obj, Error **errp)
{
    return g_strdup(HOTSNAP_MEMBER(obj)->name);
}

static void member_set_name(Object *obj, const char *value, Error **errp)
{
    HotsnapMember *m = HOTSNAP_MEMBER(obj);

    if (m->coordinator) {
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

    if (m->coordinator) {
        error_setg(errp, "The address of a member cannot be changed");
        return;
    }
    g_free(m->listen);
    m->listen = g_strdup(value);
}

static void hotsnap_member_init(Object *obj)
{
    HotsnapMember *m = HOTSNAP_MEMBER(obj);

    QTAILQ_INIT(&m->filters);
    qemu_mutex_init(&m->main_lock);
    qemu_mutex_init(&m->stop_lock);
    g_queue_init(&m->main_queue);
    m->role = g_strdup("none");
}

static void hotsnap_member_class_init(ObjectClass *oc, void *data)
{
    UserCreatableClass *ucc = USER_CREATABLE_CLASS(oc);

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
