/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The common code of the guest programs: the tagged page, time, and printing. See hs-tag.h.
 */
#define _GNU_SOURCE
#include "hs-tag.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

struct hs_tag_page *hs_tag_new(enum hs_tag_kind kind, const char *name, uint32_t entries) {
    if (entries == 0 || entries > HS_ENTRIES_MAX) {
        hs_die("%u entries do not fit a tagged page: 1 to %d do", entries, HS_ENTRIES_MAX);
    }
    struct hs_tag_page *page = mmap(NULL, HS_PAGE_SIZE, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (page == MAP_FAILED || mlock(page, HS_PAGE_SIZE) != 0) {
        hs_die("no locked page: %s", strerror(errno));
    }
    page->version = HS_TAG_VERSION;
    page->kind = kind;
    hs_set_name(&page->name, name);
    do {
        if (getrandom(&page->nonce, sizeof(page->nonce), 0) != sizeof(page->nonce)) {
            hs_die("getrandom: %s", strerror(errno));
        }
    } while (page->nonce == 0);
    page->entries = entries;
    page->entry_size = HS_ENTRY_SIZE;
    return page;
}

void hs_tag_publish(struct hs_tag_page *page) {
    /* Kept scrambled, so that no page of this program's file is mistaken for a tag. */
    static const uint8_t scrambled[16] = {'H' ^ 0x55, 'O' ^ 0x55, 'T' ^ 0x55, 'S' ^ 0x55,
                                          'N' ^ 0x55, 'A' ^ 0x55, 'P' ^ 0x55, '-' ^ 0x55,
                                          'T' ^ 0x55, 'A' ^ 0x55, 'G' ^ 0x55, '-' ^ 0x55,
                                          'P' ^ 0x55, 'A' ^ 0x55, 'G' ^ 0x55, 'E' ^ 0x55};
    atomic_thread_fence(memory_order_release);
    for (size_t i = 0; i < sizeof(scrambled); i++) {
        ((volatile uint8_t *)page->magic)[i] = scrambled[i] ^ 0x55;
    }
}

void hs_set_name(char (*field)[HS_NAME_SIZE], const char *name) {
    size_t length = strlen(name);
    if (length == 0 || length >= HS_NAME_SIZE) {
        hs_die("bad name '%s': 1 to %d bytes, please", name, HS_NAME_SIZE - 1);
    }
    memset(*field, 0, HS_NAME_SIZE);
    memcpy(*field, name, length);
}

uint64_t hs_now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void hs_sleep_ns(uint64_t ns) {
    struct timespec ts = {.tv_sec = (time_t)(ns / 1000000000u),
                          .tv_nsec = (long)(ns % 1000000000u)};
    while (nanosleep(&ts, &ts) != 0 && errno == EINTR) {
    }
}

uint64_t hs_number(const char *what, const char *text, uint64_t min, uint64_t max) {
    char *end = NULL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || *text == '-' || value < min || value > max) {
        hs_die("%s: '%s' is not a number from %llu to %llu", what, text, (unsigned long long)min,
               (unsigned long long)max);
    }
    return value;
}

static void put_line(int fd, const char *prefix, const char *format, va_list args) {
    char line[1024];
    int used = snprintf(line, sizeof(line), "%s", prefix);
    used += vsnprintf(line + used, sizeof(line) - (size_t)used - 1, format, args);
    if ((size_t)used > sizeof(line) - 2) {
        used = sizeof(line) - 2;
    }
    line[used++] = '\n';
    if (write(fd, line, (size_t)used) < 0) {
        /* A console that nobody reads is no reason to stop. */
    }
}

void hs_line(const char *format, ...) {
    va_list args;
    va_start(args, format);
    put_line(STDOUT_FILENO, "", format, args);
    va_end(args);
}

void hs_die(const char *format, ...) {
    char prefix[64];
    snprintf(prefix, sizeof(prefix), "%s: ", program_invocation_short_name);
    va_list args;
    va_start(args, format);
    put_line(STDERR_FILENO, prefix, format, args);
    va_end(args);
    exit(1);
}
