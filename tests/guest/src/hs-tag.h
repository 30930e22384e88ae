/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Tagged pages: counters of a guest program that a checker finds in a memory image.
 *
 * Each program keeps its counters on one page of its own, locked and aligned to 4 KiB, so that it
 * is one whole page of the guest's RAM and of the image. tests/support/tags.py reads the layout
 * below; all numbers are little endian. Counters are written with release stores by one thread and
 * are eight bytes each, so a cut never sees half of one.
 *
 * The rule that makes a cut checkable: a counter that says "begun" (sent, issued) is raised before
 * the system call that does it, and one that says "done" (received, acknowledged, completed) after
 * the call returned. The image then may show begun > done, and never the reverse.
 */
#ifndef HS_TAG_H
#define HS_TAG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    HS_PAGE_SIZE = 4096,
    HS_TAG_VERSION = 1,
    HS_NAME_SIZE = 32, /* bytes, with the terminating zero */
    HS_ENTRY_SIZE = 128,
    HS_ENTRIES_MAX = (HS_PAGE_SIZE - 128) / HS_ENTRY_SIZE,
};

enum hs_tag_kind { HS_TAG_CHATTER = 1, HS_TAG_PG = 2, HS_TAG_DISK = 3, HS_TAG_WRITER = 4 };

typedef _Atomic uint64_t hs_counter;

struct hs_chatter_entry {
    char peer[HS_NAME_SIZE];
    hs_counter peer_nonce;       /* incarnation of the peer that was last heard; 0: none yet */
    hs_counter udp_sent;         /* highest number given to sendto(); numbers begin at 1 */
    hs_counter udp_received_max; /* highest number received */
    hs_counter udp_received;     /* messages received */
    hs_counter udp_gaps;         /* numbers that were jumped over when a higher one came */
    hs_counter udp_late;       /* messages whose number was not above the highest: late or twice */
    hs_counter tcp_sent;       /* highest number given to send() */
    hs_counter tcp_received;   /* highest number received whole */
    hs_counter tcp_errors;     /* records that were damaged or did not follow the one before */
    hs_counter tcp_reconnects; /* connections, either way, that were lost once established */
    uint8_t reserved[16];
};

struct hs_pg_entry {
    char server[HS_NAME_SIZE];
    hs_counter issued;    /* highest row number sent for insertion */
    hs_counter committed; /* highest row number whose commit was acknowledged */
    hs_counter errors;    /* answers that differ from the expected ones */
    uint8_t reserved[72];
};

struct hs_disk_entry {
    char device[HS_NAME_SIZE];
    hs_counter issued;    /* highest block number given to pwrite() */
    hs_counter completed; /* highest block number whose pwrite() returned */
    uint64_t blocks;      /* slots in the region; block n is in slot n % blocks */
    uint64_t block_size;  /* bytes */
    uint8_t reserved[64];
};

struct hs_writer_entry {
    char unused[HS_NAME_SIZE];
    hs_counter pages; /* pages dirtied */
    hs_counter disk;  /* disk writes done */
    hs_counter net;   /* packets sent */
    uint8_t reserved[72];
};

struct hs_tag_page {
    uint8_t magic[16]; /* "HOTSNAP-TAG-PAGE" */
    uint32_t version;
    uint32_t kind; /* enum hs_tag_kind */
    char name[HS_NAME_SIZE];
    uint64_t nonce; /* of this program's incarnation: random, never 0 */
    hs_counter heartbeat;
    uint32_t entries;
    uint32_t entry_size;
    uint8_t reserved[48];
    union {
        struct hs_chatter_entry chatter[HS_ENTRIES_MAX];
        struct hs_pg_entry pg;
        struct hs_disk_entry disk;
        struct hs_writer_entry writer;
    } u;
};

_Static_assert(sizeof(struct hs_tag_page) == HS_PAGE_SIZE, "a tag is exactly one page");
_Static_assert(offsetof(struct hs_tag_page, u) == 128, "entries follow a header of 128 bytes");
_Static_assert(sizeof(struct hs_chatter_entry) == HS_ENTRY_SIZE, "one size for all entries");
_Static_assert(sizeof(struct hs_pg_entry) == HS_ENTRY_SIZE, "one size for all entries");
_Static_assert(sizeof(struct hs_disk_entry) == HS_ENTRY_SIZE, "one size for all entries");
_Static_assert(sizeof(struct hs_writer_entry) == HS_ENTRY_SIZE, "one size for all entries");

/* A new locked page without its magic: fill in the entries, then publish. Exits on failure. */
struct hs_tag_page *hs_tag_new(enum hs_tag_kind kind, const char *name, uint32_t entries);

/* Write the magic, after which a checker takes the page for valid. */
void hs_tag_publish(struct hs_tag_page *page);

/* Copy a member's name into a fixed field; exits when it is empty or too long. */
void hs_set_name(char (*field)[HS_NAME_SIZE], const char *name);

/* Raise a counter to `value`, or by one. Only the thread that owns the page may. */
static inline void hs_set(hs_counter *counter, uint64_t value) {
    atomic_store_explicit(counter, value, memory_order_release);
}

static inline uint64_t hs_get(hs_counter *counter) {
    return atomic_load_explicit(counter, memory_order_acquire);
}

static inline uint64_t hs_next(hs_counter *counter) {
    uint64_t value = hs_get(counter) + 1;
    hs_set(counter, value);
    return value;
}

/* Monotonic time in nanoseconds; it stands still while the guest is paused or frozen. */
uint64_t hs_now(void);
void hs_sleep_ns(uint64_t ns);

/* A number for `what` in [min, max] from the command line; exits when `text` is none. */
uint64_t hs_number(const char *what, const char *text, uint64_t min, uint64_t max);

/* Print one line with one write(), so that lines of several programs never mix on a console. */
void hs_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Print to stderr, with the program's name, and exit with 1. */
_Noreturn void hs_die(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
