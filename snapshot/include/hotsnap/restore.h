/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One VM's memory, loaded on demand from an image that hotsnap/snapshot.h made: the VM runs at
 * once, a page comes when it is touched, the others follow in the background.
 * (HotRestore, LISA '14.)
 *
 * The conventions of hotsnap/base.h, and:
 *
 * Threads: as for hotsnap/snapshot.h. The library's threads take no lock of the caller's, so any
 *     thread may touch memory that is not loaded, with any lock held.
 *
 * Life of a load
 *
 *     hs_load_open     VM not made    the image's checksums, heads and devices are checked; nothing
 *                                     is changed
 *     hs_load_attach   VM stands still  memory becomes absent: its content is dropped, and each
 *                                     page comes from the image when it is touched first
 *     hs_load_ready    VM stands still  enough of the working set is there
 *     hs_load_running  VM runs
 *     on_complete      VM runs        all pages are there
 *     hs_load_free
 *
 * No page is installed before its checksum was compared. A page that cannot be read, or is damaged,
 * stays absent: threads that touch it wait until it can be loaded (hs_load_retry, and on its own
 * once a second), never does one see zeros or anything else. on_failed tells.
 *
 * Duties of the caller between hs_load_attach and on_complete
 *
 *  - No page is discarded (QEMU: ram_block_discard_disable): its content from the image would come
 *    back.
 *  - A block that is about to be unmapped is told by hs_load_forget.
 *  - The process does not end the threads that wait for a page that is damaged in any other way
 *    than by its own end.
 */
#ifndef HOTSNAP_RESTORE_H
#define HOTSNAP_RESTORE_H

#include "hotsnap/snapshot.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hs_load hs_load;

#define HS_WINDOW_AUTO UINT64_MAX

typedef struct hs_load_options {
    size_t struct_size;      /* sizeof(hs_load_options) */
    const char *image_path;  /* mapped-ram stream */
    const char *sums_path;   /* its checksums, by pages */
    uint64_t sums_xxh3;      /* XXH3-64 of the file of checksums, from the manifest */
    uint32_t ram_section_id; /* as in the snapshot's options */
    uint64_t bandwidth;      /* limit of the background load in bytes/s, 0 = none */
    const int *vcpu_tids;    /* thread ids of the vCPUs: tells their faults from others' */
    size_t vcpu_tid_count;
    /*
     * From a library thread that holds no lock, and that serves no faults: a page cannot be loaded.
     * Once until hs_load_retry. hs_load_get_failure tells more.
     */
    void (*on_failed)(void *opaque, const char *message);
    /* Once, from a library thread: all memory is there, and trapped no more. */
    void (*on_complete)(void *opaque);
    void *opaque;
    /*
     * The working set (docs/formats/access.md): it is loaded first, and written anew with what is
     * learned. It need not be there, and nothing in it can do harm. NULL: none.
     */
    const char *access_path;
    uint64_t window; /* bytes of it that hs_load_ready waits for; HS_WINDOW_AUTO: as many as
                        prefetching needs to stay ahead of the guest */
} hs_load_options;

/*
 * Pages are of 4 KiB.
 *   total          pages of all blocks
 *   untrapped      zero pages that needed no trap, and the pages of small blocks: there from the
 *                  start
 *   background     loaded in the background
 *   demand_guest   loaded since a vCPU touched them or a neighbor
 *   demand_device  the same, other threads and the kernel
 *   neighbors      of the two above: loaded together with the page that was touched
 *   zero           of background and demand: pages of zeros, not in the file
 *   remaining      absent
 *   damaged        of them, those that could not be loaded
 *   faults         threads that had to wait for a page
 *   fault_us_max   the longest time from the fault's message to the page's installation
 *   fault_us_sum   of all of them
 *   bytes_read     from the image
 *   planned        pages of the working set, as far as it is known
 *   prefetched     of them, those that were brought, or found, ahead of all others
 *   attach_us      time of hs_load_attach
 *   elapsed_us     from hs_load_attach until all was there, or now
 */
#define HS_LOAD_COUNTERS(X)                                                                        \
    X(total)                                                                                       \
    X(untrapped)                                                                                   \
    X(background)                                                                                  \
    X(demand_guest)                                                                                \
    X(demand_device)                                                                               \
    X(neighbors)                                                                                   \
    X(zero)                                                                                        \
    X(remaining)                                                                                   \
    X(damaged)                                                                                     \
    X(faults)                                                                                      \
    X(fault_us_max)                                                                                \
    X(fault_us_sum)                                                                                \
    X(bytes_read)                                                                                  \
    X(planned)                                                                                     \
    X(prefetched)                                                                                  \
    X(attach_us)                                                                                   \
    X(elapsed_us)

typedef struct hs_load_stats {
    size_t struct_size; /* in: sizeof(hs_load_stats) */
    HS_LOAD_COUNTERS(HS_COUNTER_FIELD)
    uint64_t bandwidth; /* limit now, 0 = none */
    bool complete;
    bool failed;              /* a page could not be loaded, and still cannot */
    uint64_t devices_waiting; /* threads but vCPUs that wait for such a page */
} hs_load_stats;

/* Where the first page is that cannot be loaded. */
typedef struct hs_load_failure {
    char *message; /* to be freed with hs_string_free() */
    char *block;   /* likewise; its name */
    uint64_t block_offset;
    uint64_t file_offset;
} hs_load_failure;

/* Zeroes `options`, and sets struct_size and an automatic window. */
void hs_load_options_init(hs_load_options *options);

/* Blocking: reads the checksums, the bitmaps and the devices' state. */
hs_load *hs_load_open(const hs_load_options *options, char **error);

/*
 * Makes the memory absent and starts loading. The blocks are those of the image, of the same
 * lengths; blocks that the image does not have are left alone. When it fails with
 * *changed false, the memory is as before and `l` can be freed.
 */
bool hs_load_attach(hs_load *l, const hs_ram_block *blocks, size_t block_count, bool *changed,
                    char **error);

/* Whether this load brings the pages of a block, so that nobody else must. Any thread. */
bool hs_load_takes(hs_load *l, const char *idstr, uint64_t length, uint64_t pages_offset);

/*
 * Any thread: whether the VM may start, since enough of its working set is there, or there will be
 * no more before it starts. It may start at any time.
 */
bool hs_load_ready(hs_load *l);

/* Any thread: the VM starts now. What it waits for is learned. */
void hs_load_running(hs_load *l);

/* Any thread. */
void hs_load_get_stats(hs_load *l, hs_load_stats *stats);
bool hs_load_get_failure(hs_load *l, hs_load_failure *failure); /* false: there is none */
void hs_load_set_bandwidth(hs_load *l, uint64_t bytes_per_second);

/* Any thread: pages that could not be loaded are tried again, and on_failed may come again. */
void hs_load_retry(hs_load *l);

/*
 * Any thread: waits until all pages are there. False with *error when a page cannot be loaded, or
 * `cancel` (NULL, or polled) becomes true. on_complete may still be running when this returns.
 */
bool hs_load_wait(hs_load *l, const volatile bool *cancel, char **error);

/*
 * Any thread: the block at `host` is about to be unmapped. Its absent pages are not loaded; when
 * this returns the library touches it no more.
 */
void hs_load_forget(hs_load *l, const void *host);

/*
 * Joins the threads and frees. Not from a callback. NULL is allowed. False, and nothing is done,
 * while pages are absent: whoever waits for them would be given zeros.
 */
bool hs_load_free(hs_load *l);

#ifdef __cplusplus
}
#endif
#endif
