/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * -object hotsnap-member: this VM as a member of cluster snapshots. It
 * listens from its launch and can be initiator or peer of any run.
 */
#ifndef HOTSNAP_MEMBER_OBJECT_H
#define HOTSNAP_MEMBER_OBJECT_H

#include "types.h"

/* Main loop: the one there is, or an error. */
HotsnapMember *hotsnap_member(Error **errp);

/*
 * Main loop: hotsnap_refuses() for what may be done while memory is loaded on
 * demand, but not during a run.
 */
bool hotsnap_member_refuses(Error **errp, const char *what);

#endif
