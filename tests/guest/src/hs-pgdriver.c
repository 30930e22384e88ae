/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * hs-pgdriver: commits numbered rows through one psql, and counts the acknowledged ones.
 *
 * psql runs as a child, on two pipes, over one connection for its whole life. Each row is one
 * transaction; psql's own \echo after it is the acknowledgement, which psql prints only once the
 * server has answered the commit (ON_ERROR_STOP ends it otherwise). So the tagged page never claims
 * a row that the server has not made durable: in any consistent cut the server's disk holds every
 * row up to `committed`, and none above `issued`.
 *
 * The table is hotsnap_rows(n bigint primary key, ...), made with the image.
 */
#define _GNU_SOURCE
#include "hs-tag.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { VERIFY_EVERY = 50 }; /* rows between two checks of the server's highest row */

static FILE *to_psql, *from_psql;
static pid_t psql;

static void start_psql(char **command) {
    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) {
        hs_die("pipe: %s", strerror(errno));
    }
    psql = fork();
    if (psql < 0) {
        hs_die("fork: %s", strerror(errno));
    }
    if (psql == 0) {
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        signal(SIGPIPE, SIG_DFL);
        execvp(command[0], command);
        hs_die("%s: %s", command[0], strerror(errno));
    }
    close(in[0]);
    close(out[1]);
    to_psql = fdopen(in[1], "w");
    from_psql = fdopen(out[0], "r");
    if (to_psql == NULL || from_psql == NULL) {
        hs_die("fdopen: %s", strerror(errno));
    }
}

/* The next line that psql prints, without its end. Exits when psql has ended. */
static const char *answer(void) {
    static char line[256];
    if (fgets(line, sizeof(line), from_psql) == NULL) {
        int status = 0;
        waitpid(psql, &status, 0);
        hs_die("psql ended (status %d): the connection or a statement failed", status);
    }
    line[strcspn(line, "\n")] = '\0';
    return line;
}

static void ask(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void ask(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vfprintf(to_psql, format, args);
    va_end(args);
    fflush(to_psql); /* a failure shows in answer() */
}

static uint64_t ask_highest(void) {
    ask("SELECT coalesce(max(n), 0) FROM hotsnap_rows;\n");
    return strtoull(answer(), NULL, 10);
}

int main(int argc, char **argv) {
    const char *name = NULL, *server = NULL;
    uint64_t rate = 20;
    int option;
    while ((option = getopt(argc, argv, "+n:s:r:")) != -1) {
        if (option == 'n') {
            name = optarg;
        } else if (option == 's') {
            server = optarg;
        } else if (option == 'r') {
            rate = hs_number("-r", optarg, 1, 100000);
        } else {
            return 2;
        }
    }
    if (name == NULL || server == NULL || optind == argc) {
        hs_die("usage: hs-pgdriver -n NAME -s SERVER [-r RATE] psql OPTIONS...");
    }
    signal(SIGPIPE, SIG_IGN);
    start_psql(argv + optind);
    ask("\\set ON_ERROR_STOP on\n");

    struct hs_tag_page *page = hs_tag_new(HS_TAG_PG, name, 1);
    struct hs_pg_entry *count = &page->u.pg;
    uint64_t first = ask_highest();
    hs_set_name(&count->server, server);
    hs_set(&count->issued, first);
    hs_set(&count->committed, first);
    hs_tag_publish(page);

    uint64_t reported = hs_now(), next = hs_now();
    for (;;) {
        char wanted[32];
        uint64_t row = hs_next(&count->issued); /* counted before it is sent */
        ask("INSERT INTO hotsnap_rows (n) VALUES (%" PRIu64 ");\n\\echo committed %" PRIu64 "\n",
            row, row);
        snprintf(wanted, sizeof(wanted), "committed %" PRIu64, row);
        if (strcmp(answer(), wanted) == 0) {
            hs_set(&count->committed, row);
        } else {
            hs_next(&count->errors);
        }
        if (row % VERIFY_EVERY == 0 && ask_highest() != row) {
            hs_next(&count->errors);
        }
        hs_next(&page->heartbeat);

        uint64_t now = hs_now();
        if (now - reported >= 1000000000u) {
            reported = now;
            hs_line("pg %s committed=%" PRIu64 " errors=%" PRIu64, name, hs_get(&count->committed),
                    hs_get(&count->errors));
        }
        next += 1000000000u / rate;
        if (next > now) {
            hs_sleep_ns(next - now);
        } else {
            next = now; /* behind: missed rows are not made up for */
        }
    }
}
