/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One VM's memory snapshot: write traps, page ledger, COW copier, mapped-ram image.
 * (HotSnap, LISA '13, section 4: "VM snapshot".)
 *
 * The conventions of hotsnap/base.h, and:
 *
 * Threads: the library's own threads run with all signals blocked and never call back except
 *     through `on_finished`. Each function says which thread may call it; functions of one
 *     handle must not run concurrently unless marked "any thread".
 *
 * Life of a snapshot
 *
 *     hs_snapshot_new     VM runs     files made, space checked, threads up, traps registered
 *     hs_snapshot_precopy VM runs     mode precopy: memory copied, and again where it was written
 *     hs_snapshot_arm     VM runs     memory protected in slices until little is left dirty;
 *                                     stays so (keeps re-protecting) until cut or abort
 *     hs_snapshot_cut     VM paused   pages written since are protected again; from now on each
 *                                     first write to a page saves the original: this is the instant
 *     hs_snapshot_start   VM resumed  device state handed over, background copy begins
 *     on_finished                     image complete, checksummed, fsynced; or failed
 *     hs_snapshot_free                any time: an unfinished snapshot is aborted first
 *
 * Duties of the caller while a snapshot exists
 *
 *  - The blocks stay mapped, where and as long as they are, until on_finished, hs_snapshot_abort or
 *    hs_snapshot_free (QEMU: no memory hot unplug, no resize).
 *  - No page is discarded (madvise, fallocate; QEMU: ram_block_discard_disable): the kernel would
 *    drop content that is not saved yet, and say nothing.
 *  - Memory is written through the given mapping only (no vhost-user, no VFIO, no second mapping):
 *    other writes are not trapped. Writes by the kernel on behalf of any thread are trapped (KVM,
 *    io_uring, read(2)), except to pages that are pinned for I/O at the cut: drain that I/O before.
 *  - With engine "kvm", writes by this process are not trapped either, nor those of the kernel on
 *    its behalf except KVM's: from hs_snapshot_cut on the caller calls hs_snapshot_dma_write before
 *    each such write, and hs_snapshot_guest_write when KVM_RUN returns with HS_KVM_EXIT.
 */
#ifndef HOTSNAP_SNAPSHOT_H
#define HOTSNAP_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hotsnap/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hs_snapshot hs_snapshot;

/* One piece of guest memory as QEMU's migration stream knows it (a RAMBlock). */
typedef struct hs_ram_block {
    const char *idstr;  /* name in the stream, at most 255 bytes */
    void *host;         /* first byte in this process; page aligned */
    uint64_t length;    /* used length; a multiple of 4096 */
    uint64_t page_size; /* of the backing: 4096, or the huge page's; the unit of one write fault */
    int fd;             /* backing file of shared memory (memfd, hugetlbfs), or -1 */
    uint64_t fd_offset; /* where `host` lies in fd */
    bool shared;        /* mapped MAP_SHARED */
    bool read_only;     /* mapped PROT_READ: saved, but needs no trap */
    /*
     * Engine "kvm": the caller writes here without hs_snapshot_dma_write (video memory, tables it
     * builds), so the block is saved in the pause, by hs_snapshot_cut. For small blocks. Ignored by
     * other engines, which trap such writes.
     */
    bool save_at_cut;
} hs_ram_block;

/* Traps of engine "kvm" that a test may leave open. */
#define HS_OPEN_TRAP_GUEST 1u
#define HS_OPEN_TRAP_KVM 2u
#define HS_OPEN_TRAP_DMA 4u

/*
 * Options that a user may give, passed on unchanged; 0 means the default of each. The library's own
 * code reads them from here, so that a new one is named only here and where it is used.
 */
typedef struct hs_tuning {
    uint64_t bandwidth;     /* background copy limit in bytes/s, 0 = none */
    uint64_t staging_bytes; /* buffer between write faults and storage, 0 = 64 MiB */
    uint64_t cluster_pages; /* neighboring pages saved at one fault */
} hs_tuning;

typedef struct hs_snapshot_options {
    size_t struct_size;     /* sizeof(hs_snapshot_options) */
    const char *engine;     /* "auto", "kvm", "uffd"; "none" traps nothing: for negative controls */
    const char *image_path; /* mapped-ram stream to create; must not exist */
    const char *sums_path;  /* checksums of the image, see docs/formats/sums.md; must not exist */
    hs_tuning tuning;
    const void *stream_head; /* bytes before the first section: magic, version, configuration */
    size_t stream_head_size;
    bool section_footer;     /* write QEMU_VM_SECTION_FOOTER after sections */
    uint32_t ram_section_id; /* id of the "ram" section in the stream */
    uint32_t ram_version_id; /* version of the "ram" section (4 in QEMU 10.0) */
    bool precopy;            /* for hs_snapshot_precopy(); engine "auto" is "uffd" then */
    const int *vcpu_tids;    /* thread ids of the vCPUs: tells guest writes from DMA writes */
    size_t vcpu_tid_count;
    /*
     * Called once, from a library thread, after hs_snapshot_start: `error` is NULL when the image
     * is complete and durable, else the reason of the failure (valid during the call only). By then
     * all traps are released.
     */
    void (*on_finished)(void *opaque, const char *error);
    /*
     * May be NULL. Called before on_finished, from the same thread, when the last page is saved:
     * the image needs the memory no more, but is not complete yet. Not after a failure.
     */
    void (*on_copied)(void *opaque);
    void *opaque;
    int kvm_vm_fd;         /* file descriptor of the VM in KVM; -1 = none, and no engine "kvm" */
    uint32_t x_open_traps; /* for tests: HS_OPEN_TRAP_..., engine "kvm"; the image will be torn */
    /*
     * Where the pages that were written after the cut are listed (docs/formats/access.md) once the
     * image is complete. A hint: it is no failure if it cannot be written. NULL: nowhere.
     */
    const char *access_path;
} hs_snapshot_options;

/*
 * Page manners: the occasion on which a page was saved (HotSnap, Table 2). Unit: 4 KiB pages.
 *   total        pages of all blocks
 *   zero         of all manners: pages that are zero, kept as holes
 *   background   saved by the background copy
 *   guest_write  saved because a vCPU thread was about to write
 *   dma_write    saved because device emulation was about to write
 *   kvm_write    saved by KVM itself; engine "kvm" only
 *   precopy      saved before the cut, and not written since
 *   neighbors    of guest and DMA writes: saved along with the page that faulted
 */
#define HS_PAGE_COUNTERS(X)                                                                        \
    X(total)                                                                                       \
    X(zero)                                                                                        \
    X(background)                                                                                  \
    X(guest_write)                                                                                 \
    X(dma_write)                                                                                   \
    X(kvm_write)                                                                                   \
    X(precopy)                                                                                     \
    X(neighbors)

/*
 *   bytes_written       to the image
 *   faults              write faults answered after the cut
 *   fault_us_max        longest time between reading a fault and releasing it
 *   fault_us_sum        of all faults
 *   staging_full_waits  faults that had to wait for storage
 *   precopy_rounds      rounds of hs_snapshot_precopy, those after it included
 *   precopy_pages       pages with data that they copied, each as often as it was copied
 *   precopy_us          time of hs_snapshot_precopy
 *   precopy_written     pages that were written in the last round before it returned
 *   precopy_converged   1: these could be copied in a moment; 0: more rounds would not have helped
 *   arm_passes          protect passes of hs_snapshot_arm, and of hs_snapshot_precopy
 *   arm_us              time of hs_snapshot_arm's first convergence
 *   arm_faults          writes seen while arming
 *   cut_pages           pages written since the last pass, protected in the pause
 *   cut_us              time of hs_snapshot_cut
 *   copy_us             from hs_snapshot_start to the end of the copy, so far: the last page saved,
 *                       but not before the deadline
 *   deadline_us         from hs_snapshot_start to the deadline, at least 1; 0: there is none
 *   expected_us         from hs_snapshot_start to the end of the copy, as expected now: the
 *                       deadline or later; without a deadline from the rate so far; 0: not known
 *   copied_ns           end of the copy, CLOCK_MONOTONIC; 0: not yet
 *   durable_us          from hs_snapshot_start until image and checksums are durable; 0: not yet
 */
#define HS_MEMORY_COUNTERS(X)                                                                      \
    X(bytes_written)                                                                               \
    X(faults)                                                                                      \
    X(fault_us_max)                                                                                \
    X(fault_us_sum)                                                                                \
    X(staging_full_waits)                                                                          \
    X(precopy_rounds)                                                                              \
    X(precopy_pages)                                                                               \
    X(precopy_us)                                                                                  \
    X(precopy_written)                                                                             \
    X(precopy_converged)                                                                           \
    X(arm_passes)                                                                                  \
    X(arm_us)                                                                                      \
    X(arm_faults)                                                                                  \
    X(cut_pages)                                                                                   \
    X(cut_us)                                                                                      \
    X(copy_us)                                                                                     \
    X(deadline_us)                                                                                 \
    X(expected_us)                                                                                 \
    X(copied_ns)                                                                                   \
    X(durable_us)

typedef struct hs_page_counts {
    HS_PAGE_COUNTERS(HS_COUNTER_FIELD)
} hs_page_counts;

typedef struct hs_snapshot_stats {
    size_t struct_size; /* in: sizeof(hs_snapshot_stats) */
    hs_page_counts pages;
    uint64_t bytes_total; /* of memory */
    uint64_t bytes_done;  /* of memory saved (copied to staging or written); falls when a page that
                             was copied before the cut is written */
    uint64_t bandwidth;   /* limit now, 0 = none */
    HS_MEMORY_COUNTERS(HS_COUNTER_FIELD)
    uint64_t expected_ns; /* as expected_us, as an instant of CLOCK_MONOTONIC; 0 = not known */
    uint64_t image_size;  /* final file size, once known */
    uint64_t sums_xxh3;   /* XXH3-64 of the sums file, once finished */
    bool direct_io;       /* image is written with O_DIRECT */
    char engine[16];      /* the engine in use */
} hs_snapshot_stats;

/* Zeroes `options` and sets struct_size and defaults. */
void hs_snapshot_options_init(hs_snapshot_options *options);

/*
 * Tells within milliseconds whether an engine works here, by trying it on a few pages. `shared` and
 * `huge` say what kinds of memory must be trapped.
 */
bool hs_engine_probe(const char *engine, bool shared, bool huge, char **error);

/* PREPARE. Fails when a file exists already, there is too little space, or no engine works. */
hs_snapshot *hs_snapshot_new(const hs_snapshot_options *options, const hs_ram_block *blocks,
                             size_t block_count, char **error);

/*
 * Mode precopy, at most once, before hs_snapshot_arm: copies all memory while the VM runs, and
 * again what was written meanwhile, until that is so little that it can be copied in a moment
 * (*converged is true), or it is clear that it will not become less. Never waits longer than that;
 * what is left is saved after the cut. The rounds go on until hs_snapshot_arm. The same demands on
 * the caller as of hs_snapshot_arm; each page costs the guest a fault in each round in which it is
 * written. Fails when aborted meanwhile.
 */
bool hs_snapshot_precopy(hs_snapshot *s, bool *converged, char **error);

/*
 * Protects all memory while the VM runs; returns when converged (or after `max_us`, but not before
 * everything was protected once). The caller must not hold a lock that a guest write may need
 * (QEMU: not the BQL): writes fault into the library's thread, which only notes and releases them
 * in this phase. Until the cut the first write to a page after each protect pass costs such a
 * fault, so do not leave a VM armed for long. Fails when aborted meanwhile.
 */
bool hs_snapshot_arm(hs_snapshot *s, uint64_t max_us, char **error);

/*
 * The instant. The caller guarantees that nothing writes to the memory during the call (vCPUs
 * stopped, disk I/O drained, BQL held). Cost: proportional to the pages written since the last
 * protect pass, not to the size of memory; once converged, at most about 600 runs of 16 pages.
 */
bool hs_snapshot_cut(hs_snapshot *s, char **error);

/*
 * Engine "kvm": a patched KVM's report that a vCPU is about to write to a page that is not saved.
 * KVM_RUN returns 0, kvm_run.exit_reason is HS_KVM_EXIT, and this struct lies where the members of
 * kvm_run's union begin (kvm_run.hw).
 */
#define HS_KVM_EXIT 0x4853
typedef struct hs_kvm_exit {
    uint64_t gpa;
    uint64_t hva;
} hs_kvm_exit;

/* Whether the KVM of this VM offers engine "kvm", in the version that this library speaks. */
bool hs_kvm_offered(int kvm_vm_fd);

/*
 * A vCPU is about to write at `host`: saves the page and its neighbors. When this returns the vCPU
 * may go on. Any thread (QEMU: without the BQL), any phase, before hs_snapshot_free. Waits for
 * storage only when the staging buffer is full. False when `host` is not in the snapshot's memory.
 * Does nothing under other engines, before the cut, and after the end.
 */
bool hs_snapshot_guest_write(hs_snapshot *s, const void *host);

/*
 * The same for the caller's own writes of `size` bytes, to be called before them (QEMU: device
 * emulation). Memory that is not in the snapshot is ignored.
 */
void hs_snapshot_dma_write(hs_snapshot *s, const void *host, size_t size);

/*
 * Test hook: writes the same memory by plain sequential writes to a second mapped-ram file, to be
 * called between hs_snapshot_cut and the resume. O(RAM): never used outside tests.
 */
bool hs_snapshot_dump(hs_snapshot *s, const char *path, char **error);

/*
 * Starts the background copy. `tail` is the rest of the stream after the "ram" section (device
 * sections, EOF mark, vmdesc), taken in the pause; copied here. To be called after the resume.
 * It fails if the snapshot has failed since the cut: hs_snapshot_abort or hs_snapshot_free then
 * return once its files are deleted.
 */
bool hs_snapshot_start(hs_snapshot *s, const void *tail, size_t tail_size, char **error);

/* Any thread, any phase. */
void hs_snapshot_get_stats(hs_snapshot *s, hs_snapshot_stats *stats);
void hs_snapshot_set_bandwidth(hs_snapshot *s, uint64_t bytes_per_second);

/*
 * Any thread, any phase. The instant (CLOCK_MONOTONIC, nanoseconds) at which the copy is to end,
 * that is, the last page is saved; 0: as soon as possible. The work is spread over the time until
 * then. If write faults have saved every page before, the end waits for the deadline nevertheless.
 * A deadline that cannot be met is missed, and the image is complete all the same; `bandwidth`
 * stays an upper limit. May be changed any number of times until the copy has ended.
 */
void hs_snapshot_set_deadline(hs_snapshot *s, uint64_t deadline_ns);

/*
 * Any thread, any phase, any number of times: stops all work, releases every protection, and
 * (unless the snapshot had finished) deletes its files. The VM's memory is as if nothing had
 * happened. on_finished then reports `reason`, if hs_snapshot_start had been called. When this
 * returns, the library touches the memory no more; the call of on_finished may still follow.
 */
void hs_snapshot_abort(hs_snapshot *s, const char *reason);

/* Aborts if unfinished, joins the threads, frees. NULL is allowed. Not from on_finished. */
void hs_snapshot_free(hs_snapshot *s);

/*
 * Checksums of any finished file, in the sums format: one XXH3-64 for each `unit` bytes, written
 * to `sums_path`; `*sums_xxh3` is the XXH3-64 of that file. Blocking; reads past the page cache
 * where it can. `cancel` may be NULL, or is polled.
 */
bool hs_sums_write(const char *path, const char *sums_path, uint64_t unit, uint64_t *sums_xxh3,
                   const volatile bool *cancel, char **error);

/*
 * Checks a file against its sums. False with *error when one of the two cannot be read or the sums
 * file is not valid; else *good tells the result, and *bad_offset is where the first unit that
 * differs begins (or where the shorter of both ends, when only the length differs). `cancel` as
 * above.
 */
bool hs_sums_verify(const char *path, const char *sums_path, bool *good, uint64_t *bad_offset,
                    const volatile bool *cancel, char **error);

/* XXH3-64 of a whole (small) file. */
bool hs_file_xxh3(const char *path, uint64_t *xxh3, char **error);

#ifdef __cplusplus
}
#endif
#endif
