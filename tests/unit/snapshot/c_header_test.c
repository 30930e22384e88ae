/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The header from C: it compiles as C11, and a snapshot can be taken with it as QEMU would.
 */
#include <hotsnap/snapshot.h>

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not true: %s (%s)\n", __FILE__, __LINE__, #condition,          \
                    error ? error : "no error");                                                   \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static atomic_int finished;

static void on_finished(void *opaque, const char *message) {
    char *error = NULL;
    CHECK(opaque == &finished);
    if (message) {
        fprintf(stderr, "finished: %s\n", message);
    }
    atomic_store(&finished, message ? 2 : 1);
}

/* As with a guest's write, the kernel alone orders this write with the saving of the page, which a
 * thread sanitizer does not see. */
__attribute__((noinline, no_sanitize("thread"))) static void guest_write(volatile char *at,
                                                                         char value) {
    *at = value;
}

int main(void) {
    char folder[] = "/tmp/hotsnap-test-XXXXXX";
    char image[64], sums[64];
    char *error = NULL;
    const size_t length = 1 << 20;
    const int tid = getpid();
    hs_snapshot_options options;
    hs_snapshot_stats stats = {.struct_size = sizeof(stats)};
    hs_ram_block block = {.idstr = "pc.ram", .page_size = 4096, .fd = -1, .length = length};
    hs_snapshot *snapshot;
    struct stat file;
    uint64_t bad_offset;
    bool good = false;

    CHECK(mkdtemp(folder));
    snprintf(image, sizeof(image), "%s/state", folder);
    snprintf(sums, sizeof(sums), "%s/state.sums", folder);
    block.host = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(block.host != MAP_FAILED);
    memset(block.host, 'a', length / 2);

    hs_snapshot_options_init(&options);
    CHECK(strcmp(options.engine, "auto") == 0);
    CHECK(options.struct_size == sizeof(options));
    CHECK(options.kvm_vm_fd == -1);
    CHECK(!hs_kvm_offered(-1));

    /* A refusal gives a message and no handle. */
    CHECK(!hs_snapshot_new(&options, &block, 1, &error));
    CHECK(error && strstr(error, "image_path"));
    hs_string_free(error);
    error = NULL;

    CHECK(hs_engine_probe("uffd", false, false, &error));
    CHECK(!hs_engine_probe("kvm", false, false, &error));
    CHECK(error && strstr(error, "-accel kvm"));
    hs_string_free(error);
    error = NULL;
    options.image_path = image;
    options.sums_path = sums;
    options.stream_head = "head";
    options.stream_head_size = 4;
    options.vcpu_tids = &tid;
    options.vcpu_tid_count = 1;
    options.on_finished = on_finished;
    options.opaque = &finished;
    snapshot = hs_snapshot_new(&options, &block, 1, &error);
    CHECK(snapshot);

    /* Out of order. */
    CHECK(!hs_snapshot_cut(snapshot, &error));
    CHECK(error && strstr(error, "out of order"));
    hs_string_free(error);
    error = NULL;

    CHECK(hs_snapshot_arm(snapshot, 1000000, &error));
    CHECK(hs_snapshot_cut(snapshot, &error));
    guest_write((char *)block.host + 5, 'b'); /* saved first */
    /* Calls for engine kvm; under this engine there is nothing to do. */
    CHECK(hs_snapshot_guest_write(snapshot, block.host));
    hs_snapshot_dma_write(snapshot, block.host, length);
    CHECK(hs_snapshot_start(snapshot, "tail", 4, &error));
    while (!atomic_load(&finished)) {
        usleep(1000);
    }
    CHECK(atomic_load(&finished) == 1);
    hs_snapshot_get_stats(snapshot, &stats);
    CHECK(stats.pages.total == length / 4096);
    CHECK(stats.pages.guest_write > 0);
    CHECK(stats.pages.zero == length / 4096 / 2);
    CHECK(strcmp(stats.engine, "uffd") == 0);
    hs_snapshot_abort(snapshot, "too late: changes nothing");
    CHECK(stat(image, &file) == 0 && (uint64_t)file.st_size == stats.image_size);
    CHECK(hs_sums_verify(image, sums, &good, &bad_offset, NULL, &error));
    CHECK(good);
    hs_snapshot_free(snapshot);
    hs_snapshot_free(NULL);
    hs_string_free(NULL);
    CHECK(unlink(image) == 0 && unlink(sums) == 0 && rmdir(folder) == 0);
    return 0;
}
