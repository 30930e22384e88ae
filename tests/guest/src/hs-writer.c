/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * hs-writer: a load that changes memory, and on request the disk and the network, at a set rate.
 *
 * Memory: pages of a buffer in random order, each overwritten whole with words that follow from a
 * running number, so that no two versions of a page are alike. Disk: O_DIRECT writes from that
 * buffer to a file, so also DMA reads of the buffer. After every READ_EVERY-th write, its data is
 * read back into the buffer: DMA into guest memory that no vCPU touches. Network: UDP packets to
 * the peers' discard port.
 */
#define _GNU_SOURCE
#include "hs-tag.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    DISK_CHUNK = 65536, /* bytes of one disk write */
    DISK_CHUNKS = 512,  /* size of the file, in chunks: 32 MiB */
    SYNC_EVERY = 16,    /* disk writes between two fsync() */
    READ_EVERY = 4,     /* disk writes between two reads */
    PACKET = 1024,      /* bytes of payload of a packet */
    DISCARD_PORT = 9,
    STEP_MS = 10,
    BATCH = 256, /* pages in one step when the rate is unlimited */
};

struct load {
    struct hs_tag_page *page;
    uint8_t *buffer;
    uint64_t buffer_pages;
    int disk_fd;
    int net_fd;
    struct sockaddr_in peers[HS_ENTRIES_MAX];
    int peer_count;
    uint64_t random;
};

/* xorshift64*: even enough to spread writes, and cheap next to writing a page. */
static uint64_t random_next(struct load *load) {
    uint64_t x = load->random;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    load->random = x;
    return x * 0x2545f4914f6cdd1du;
}

static void write_memory(struct load *load, uint64_t pages) {
    while (pages-- > 0) {
        uint64_t number = hs_next(&load->page->u.writer.pages);
        uint64_t index = random_next(load) % load->buffer_pages;
        uint64_t *words = (uint64_t *)(load->buffer + index * HS_PAGE_SIZE);
        for (size_t i = 0; i < HS_PAGE_SIZE / sizeof(*words); i++) {
            words[i] = number * 0x9e3779b97f4a7c15u + i;
        }
    }
}

static void write_disk(struct load *load, uint64_t writes) {
    uint64_t chunks = load->buffer_pages * HS_PAGE_SIZE / DISK_CHUNK;
    while (writes-- > 0) {
        uint64_t number = hs_next(&load->page->u.writer.disk);
        void *memory = load->buffer + random_next(load) % chunks * DISK_CHUNK;
        off_t offset = (off_t)(random_next(load) % DISK_CHUNKS * DISK_CHUNK);
        ssize_t done = pwrite(load->disk_fd, memory, DISK_CHUNK, offset);
        if (done == DISK_CHUNK && number % READ_EVERY == 0) {
            memory = load->buffer + random_next(load) % chunks * DISK_CHUNK;
            done = pread(load->disk_fd, memory, DISK_CHUNK, offset);
        }
        if (done != DISK_CHUNK) {
            hs_die("disk: %s", done < 0 ? strerror(errno) : "short transfer");
        }
        if (number % SYNC_EVERY == 0 && fsync(load->disk_fd) != 0) {
            hs_die("fsync: %s", strerror(errno));
        }
    }
}

static void write_net(struct load *load, uint64_t packets) {
    for (; packets > 0; packets--) {
        for (int i = 0; i < load->peer_count; i++) {
            /* Nobody listens there. That and a full queue do not concern a load. */
            if (sendto(load->net_fd, load->buffer, PACKET, MSG_DONTWAIT,
                       (struct sockaddr *)&load->peers[i], sizeof(load->peers[i])) == PACKET) {
                hs_next(&load->page->u.writer.net);
            }
        }
    }
}

static void open_disk(struct load *load, const char *path) {
    load->disk_fd = open(path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
    if (load->disk_fd < 0) {
        hs_die("%s: %s", path, strerror(errno));
    }
    int error = posix_fallocate(load->disk_fd, 0, (off_t)DISK_CHUNK * DISK_CHUNKS);
    if (error != 0) {
        hs_die("%s: %s", path, strerror(error));
    }
}

/* The actions due by the clock, at a rate a second. Missed ones are not made up for beyond a tenth
 * of a second, so that no burst follows a pause. */
struct pace {
    uint64_t rate;
    uint64_t since_ns;
};

static uint64_t due(struct pace *pace, uint64_t now) {
    if (pace->rate == 0) {
        return 0;
    }
    uint64_t each = 1000000000u / pace->rate;
    if (now - pace->since_ns > 100000000u + each) {
        pace->since_ns = now - 100000000u - each;
    }
    uint64_t count = (now - pace->since_ns) / each;
    pace->since_ns += count * each;
    return count;
}

int main(int argc, char **argv) {
    struct load load = {.disk_fd = -1, .random = hs_now() | 1};
    const char *name = NULL, *path = NULL;
    uint64_t mib = 64, rate = 2000, disk = 0, net = 0;
    int option;
    while ((option = getopt(argc, argv, "n:m:r:d:f:u:")) != -1) {
        switch (option) {
        case 'n':
            name = optarg;
            break;
        case 'm':
            mib = hs_number("-m", optarg, 1, 1 << 20);
            break;
        case 'r':
            rate = hs_number("-r", optarg, 0, 1000000000);
            break;
        case 'd':
            disk = hs_number("-d", optarg, 0, 1000000);
            break;
        case 'f':
            path = optarg;
            break;
        case 'u':
            net = hs_number("-u", optarg, 0, 1000000);
            break;
        default:
            return 2;
        }
    }
    if (name == NULL || (disk > 0 && path == NULL)) {
        hs_die("usage: hs-writer -n NAME [-m MIB] [-r PAGES/s, 0: unlimited] [-d WRITES/s -f FILE] "
               "[-u PACKETS/s] [ADDRESS...]");
    }
    for (; optind < argc && load.peer_count < HS_ENTRIES_MAX; optind++) {
        struct sockaddr_in *peer = &load.peers[load.peer_count++];
        *peer = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(DISCARD_PORT)};
        if (inet_pton(AF_INET, argv[optind], &peer->sin_addr) != 1) {
            hs_die("bad address '%s'", argv[optind]);
        }
    }
    load.buffer_pages = mib << 20 >> 12;
    load.buffer = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    load.net_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (load.buffer == MAP_FAILED || load.net_fd < 0) {
        hs_die("no memory or socket: %s", strerror(errno));
    }
    if (disk > 0) {
        open_disk(&load, path);
    }
    load.page = hs_tag_new(HS_TAG_WRITER, name, 1);
    hs_tag_publish(load.page);

    uint64_t now = hs_now(), reported = now;
    struct pace memory_pace = {rate, now}, disk_pace = {disk, now}, net_pace = {net, now};
    for (;;) {
        hs_next(&load.page->heartbeat);
        write_memory(&load, rate == 0 ? BATCH : due(&memory_pace, now));
        write_disk(&load, due(&disk_pace, now));
        write_net(&load, due(&net_pace, now));

        now = hs_now();
        if (now - reported >= 1000000000u) {
            struct hs_writer_entry *count = &load.page->u.writer;
            reported = now;
            hs_line("writer %s pages=%" PRIu64 " disk=%" PRIu64 " net=%" PRIu64, name,
                    hs_get(&count->pages), hs_get(&count->disk), hs_get(&count->net));
        }
        if (rate > 0) {
            hs_sleep_ns(STEP_MS * 1000000u);
            now = hs_now();
        }
    }
}
