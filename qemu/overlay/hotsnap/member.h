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

#endif
