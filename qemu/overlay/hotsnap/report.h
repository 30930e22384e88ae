/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A member's words about itself, beside those of its parts, for the manifest
 * (docs/formats/bundle.md). Main loop.
 */
#ifndef HOTSNAP_REPORT_H
#define HOTSNAP_REPORT_H

#include "qapi/qapi-types-hotsnap.h"
#include "qobject/qdict.h"

#include <hotsnap/member.h>

char *hotsnap_report_boot_id(void); /* "" where the host has none */

/* Adds host, QEMU, machine and command line to @json. */
void hotsnap_report_host(QDict *json);

void hotsnap_report_pause_info(const hs_pause *pause,
                               HotsnapSnapshotInfo *info);

#endif
