/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The conventions of all C interfaces of the libraries: snapshot.h, coordinator.h, mediator.h,
 * member.h.
 *
 *  1. Handles are opaque. A function that takes a handle takes ownership of no other argument, and
 *     copies strings and arrays, unless a comment says otherwise.
 *  2. Sizes and offsets are bytes, durations microseconds (`_us`) and instants CLOCK_MONOTONIC
 *     nanoseconds (`_ns`), unless a name says otherwise.
 *  3. Functions that can fail take `char **error`. On failure they return false or NULL and, when
 *     `error` is not NULL, store a message (one line, with the remedy) to be freed with
 *     hs_string_free(). On success *error is untouched.
 *  4. No C++ exception crosses these interfaces.
 */
#ifndef HOTSNAP_BASE_H
#define HOTSNAP_BASE_H

#include <stdint.h>

/*
 * Counters are lists: the structs that hold them and the callers' reports and copies are made from
 * the lists. A list calls X(name) for each counter; all are uint64_t.
 */
#define HS_COUNTER_FIELD(name) uint64_t name;

#ifdef __cplusplus
extern "C" {
#endif

/* Frees a string that a function of the libraries returned or stored. NULL is allowed. */
void hs_string_free(char *s);

#ifdef __cplusplus
}
#endif
#endif
