/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * hs-disktag: numbered blocks on a raw disk, for the agreement of disk and memory.
 *
 * Block n goes to slot n % blocks of the region, by one O_DIRECT write at a time; the tagged page
 * holds the number begun and the number done. In a consistent cut the highest number on the frozen
 * disk lies between the two, and the blocks below it are all there.
 */
#define _GNU_SOURCE
#include "hs-tag.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    BLOCK_SIZE = 4096,
    BLOCKS_MAX = 4096, /* 16 MiB of the disk */
    BLOCKS_MIN = 16,
    FLUSH_EVERY = 64, /* blocks between two fdatasync() */
};

/* On the disk; little endian. The rest of the block is filled from the number. */
struct block_header {
    char magic[8]; /* "HSDISK01" */
    uint64_t number;
    uint64_t nonce;
    char name[HS_NAME_SIZE];
    uint64_t check; /* FNV-1a over the rest of the block, 64-bit word by word */
};

static uint64_t block_check(const uint64_t *words) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < BLOCK_SIZE / sizeof(*words); i++) {
        if (i != offsetof(struct block_header, check) / sizeof(*words)) {
            hash = (hash ^ words[i]) * 0x100000001b3u;
        }
    }
    return hash;
}

static void block_make(void *block, const struct hs_tag_page *page, uint64_t number) {
    struct block_header *header = block;
    uint64_t *words = block;
    memcpy(header->magic, "HSDISK01", sizeof(header->magic));
    header->number = number;
    header->nonce = page->nonce;
    memcpy(header->name, page->name, sizeof(header->name));
    for (size_t i = sizeof(*header) / sizeof(*words); i < BLOCK_SIZE / sizeof(*words); i++) {
        words[i] = number * 0x9e3779b97f4a7c15u + i;
    }
    header->check = block_check(words);
}

int main(int argc, char **argv) {
    const char *name = NULL;
    uint64_t rate = 100;
    int option;
    while ((option = getopt(argc, argv, "n:r:")) != -1) {
        if (option == 'n') {
            name = optarg;
        } else if (option == 'r') {
            rate = hs_number("-r", optarg, 1, 1000000);
        } else {
            return 2;
        }
    }
    if (name == NULL || optind + 1 != argc) {
        hs_die("usage: hs-disktag -n NAME [-r RATE] DEVICE");
    }
    const char *device = argv[optind];
    int fd = open(device, O_RDWR | O_DIRECT | O_CLOEXEC);
    off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (size < 0) {
        hs_die("%s: %s", device, strerror(errno));
    }
    uint64_t blocks = (uint64_t)size / BLOCK_SIZE;
    blocks = blocks < BLOCKS_MAX ? blocks : BLOCKS_MAX;
    void *block = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    if (blocks < BLOCKS_MIN || block == NULL) {
        hs_die("%s: needs at least %d KiB", device, BLOCKS_MIN * BLOCK_SIZE / 1024);
    }

    struct hs_tag_page *page = hs_tag_new(HS_TAG_DISK, name, 1);
    struct hs_disk_entry *count = &page->u.disk;
    hs_set_name(&count->device, device);
    count->blocks = blocks;
    count->block_size = BLOCK_SIZE;
    hs_tag_publish(page);

    uint64_t reported = hs_now(), next = hs_now();
    for (;;) {
        uint64_t number = hs_next(&count->issued); /* counted before it is written */
        block_make(block, page, number);
        if (pwrite(fd, block, BLOCK_SIZE, (off_t)(number % blocks * BLOCK_SIZE)) != BLOCK_SIZE) {
            hs_die("%s: block %" PRIu64 ": %s", device, number, strerror(errno));
        }
        hs_set(&count->completed, number);
        if (number % FLUSH_EVERY == 0 && fdatasync(fd) != 0) {
            hs_die("%s: fdatasync: %s", device, strerror(errno));
        }
        hs_next(&page->heartbeat);

        uint64_t now = hs_now();
        if (now - reported >= 1000000000u) {
            reported = now;
            hs_line("disktag %s issued=%" PRIu64 " completed=%" PRIu64, name,
                    hs_get(&count->issued), hs_get(&count->completed));
        }
        next += 1000000000u / rate;
        if (next > now) {
            hs_sleep_ns(next - now);
        } else {
            next = now;
        }
    }
}
