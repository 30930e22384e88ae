/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connections that the member makes. Iothread.
 */
#ifndef HOTSNAP_TRANSPORT_CONNECT_H
#define HOTSNAP_TRANSPORT_CONNECT_H

#include "links.h"

/*
 * The action HS_DO_CONNECT. The caller, which is carrying out the
 * coordinator's actions, takes the actions that follow, too.
 */
void hotsnap_links_connect(HotsnapLinks *ls, const char *address);

/* Before hotsnap_links_free(). */
void hotsnap_links_end_connects(HotsnapLinks *ls);

#endif
