/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Counters of the libraries in reports (a QDict) and in answers to queries (a
 * QAPI struct with members of the same names). The libraries' headers have
 * the lists.
 */
#ifndef HOTSNAP_COUNTERS_H
#define HOTSNAP_COUNTERS_H

#include "qobject/qdict.h"

#define HOTSNAP_REPORT_COUNTERS(LIST, json, stats) \
    do {                                           \
        typeof(&(stats)) from_ = &(stats);         \
        QDict *to_ = (json);                       \
        LIST(HOTSNAP_REPORT_COUNTER)               \
    } while (0)
#define HOTSNAP_REPORT_COUNTER(name) qdict_put_int(to_, #name, from_->name);

#define HOTSNAP_COPY_COUNTERS(LIST, info, stats) \
    do {                                         \
        typeof(&(stats)) from_ = &(stats);       \
        typeof(info) to_ = (info);               \
        LIST(HOTSNAP_COPY_COUNTER)               \
    } while (0)
#define HOTSNAP_COPY_COUNTER(name) to_->name = from_->name;

/* A checksum, as docs/formats/bundle.md has it. */
static inline void hotsnap_report_xxh3(QDict *json, const char *key,
                                       uint64_t xxh3)
{
    g_autofree char *hex = g_strdup_printf("%016" PRIx64, xxh3);

    qdict_put_str(json, key, hex);
}

#endif
