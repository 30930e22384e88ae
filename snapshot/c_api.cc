// SPDX-License-Identifier: GPL-2.0-or-later
//
// The C interface: translates arguments, and exceptions to messages. Nothing else.
#include "hotsnap/snapshot.h"

#include "base/c_boundary.h"
#include "base/error.h"
#include "guest/ram_block.h"
#include "image/checksums.h"
#include "os/file.h"
#include "save/session.h"
#include "trap/engine.h"
#include "trap/kvm_calls.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <unistd.h>

using namespace hotsnap;
using namespace hotsnap::memory;

struct hs_snapshot {
    hs_snapshot(SnapshotOptions options, std::vector<MemoryBlock> blocks,
                std::unique_ptr<WriteTrap> trap)
        : session(std::move(options), std::move(blocks), std::move(trap)) {}
    Session session;
};

static_assert(HS_KVM_EXIT == KVM_EXIT_HOTSNAP);
static_assert(offsetof(kvm_hotsnap_exit, hva) == offsetof(hs_kvm_exit, hva) &&
              sizeof(kvm_hotsnap_exit) == sizeof(hs_kvm_exit));

namespace {

// A struct as an older or newer caller knows it: members that it lacks keep their defaults.
template <typename T> T versioned(const T &given, T defaults) {
    if (given.struct_size < sizeof(size_t)) {
        throw Error("struct_size is not set");
    }
    std::memcpy(&defaults, &given, std::min(given.struct_size, sizeof(T)));
    return defaults;
}

std::string text(const char *given, const char *what) {
    if (given == nullptr || *given == '\0') {
        throw Error(std::string(what) + " is missing");
    }
    return given;
}

hs_snapshot_options with_defaults(const hs_snapshot_options &given) {
    hs_snapshot_options defaults;
    hs_snapshot_options_init(&defaults);
    return versioned(given, defaults);
}

SnapshotOptions options_from(const hs_snapshot_options &c) {
    SnapshotOptions options;
    options.image_path = text(c.image_path, "image_path");
    options.sums_path = text(c.sums_path, "sums_path");
    options.access_path = c.access_path == nullptr ? "" : c.access_path;
    options.tuning = c.tuning;
    const auto *head = static_cast<const std::byte *>(c.stream_head);
    options.stream.head.assign(head, head + c.stream_head_size);
    options.stream.section_id = c.ram_section_id;
    options.stream.version_id = c.ram_version_id;
    options.stream.section_footer = c.section_footer;
    options.precopy = c.precopy;
    options.open_dma_trap = (c.x_open_traps & HS_OPEN_TRAP_DMA) != 0;
    options.vcpu_tids.assign(c.vcpu_tids, c.vcpu_tids + c.vcpu_tid_count);
    if (c.on_finished != nullptr) {
        options.on_finished = [call = c.on_finished, opaque = c.opaque](const char *error) {
            call(opaque, error);
        };
    }
    if (c.on_copied != nullptr) {
        options.on_copied = [call = c.on_copied, opaque = c.opaque] { call(opaque); };
    }
    return options;
}

// What is saved before the cut has to be noticed when it is written, for which engine kvm has no
// means: it arms all memory at the cut.
std::string engine_of(const hs_snapshot_options &c) {
    const std::string engine = text(c.engine, "engine");
    if (c.precopy && engine == "kvm") {
        throw Error("engine kvm cannot copy memory before the cut; use engine uffd, or mode hot");
    }
    return c.precopy && engine == "auto" ? "uffd" : engine;
}

std::function<bool()> polled(const volatile bool *cancel) {
    return [cancel] { return cancel != nullptr && *cancel; };
}

} // namespace

void hs_snapshot_options_init(hs_snapshot_options *options) {
    *options = {};
    options->struct_size = sizeof(*options);
    options->engine = "auto";
    options->section_footer = true;
    options->ram_version_id = 4;
    options->kvm_vm_fd = -1;
}

bool hs_engine_probe(const char *engine, bool shared, bool huge, char **error) {
    return guarded(error, false, [&] {
        probe_engine(text(engine, "engine"), shared, huge);
        return true;
    });
}

hs_snapshot *hs_snapshot_new(const hs_snapshot_options *options, const hs_ram_block *blocks,
                             size_t block_count, char **error) {
    return guarded<hs_snapshot *>(error, nullptr, [&] {
        const hs_snapshot_options given = with_defaults(*options);
        auto trap = make_trap(engine_of(given), given.kvm_vm_fd, given.x_open_traps);
        std::vector<MemoryBlock> memory = blocks_from(blocks, block_count);
        return new hs_snapshot(options_from(given), std::move(memory), std::move(trap));
    });
}

bool hs_snapshot_precopy(hs_snapshot *s, bool *converged, char **error) {
    return guarded(error, false, [&] {
        *converged = s->session.precopy();
        return true;
    });
}

bool hs_snapshot_arm(hs_snapshot *s, uint64_t max_us, char **error) {
    return guarded(error, false, [&] {
        s->session.arm(max_us);
        return true;
    });
}

bool hs_snapshot_cut(hs_snapshot *s, char **error) {
    return guarded(error, false, [&] {
        s->session.cut();
        return true;
    });
}

bool hs_snapshot_guest_write(hs_snapshot *s, const void *host) {
    return guarded(nullptr, false, [&] { return s->session.before_guest_write(host); });
}

void hs_snapshot_dma_write(hs_snapshot *s, const void *host, size_t size) {
    guarded([&] { s->session.before_dma_write(host, size); });
}

bool hs_kvm_offered(int kvm_vm_fd) {
    return kvm_hotsnap_version(kvm_vm_fd) == KVM_HOTSNAP_VERSION;
}

bool hs_snapshot_dump(hs_snapshot *s, const char *path, char **error) {
    return guarded(error, false, [&] {
        s->session.dump(text(path, "path"));
        return true;
    });
}

bool hs_snapshot_start(hs_snapshot *s, const void *tail, size_t tail_size, char **error) {
    return guarded(error, false, [&] {
        s->session.start({static_cast<const std::byte *>(tail), tail_size});
        return true;
    });
}

void hs_snapshot_get_stats(hs_snapshot *s, hs_snapshot_stats *stats) {
    guarded([&] {
        hs_snapshot_stats now{};
        s->session.get_stats(now);
        now.struct_size = stats->struct_size;
        std::memcpy(stats, &now, std::min(stats->struct_size, sizeof(now)));
    });
}

void hs_snapshot_set_bandwidth(hs_snapshot *s, uint64_t bytes_per_second) {
    guarded([&] { s->session.set_bandwidth(bytes_per_second); });
}

void hs_snapshot_set_deadline(hs_snapshot *s, uint64_t deadline_ns) {
    guarded([&] { s->session.set_deadline(deadline_ns); });
}

void hs_snapshot_abort(hs_snapshot *s, const char *reason) {
    guarded([&] { s->session.abort(reason != nullptr && *reason != '\0' ? reason : "aborted"); });
}

void hs_snapshot_free(hs_snapshot *s) {
    guarded([&] { delete s; });
}

bool hs_sums_write(const char *path, const char *sums_path, uint64_t unit, uint64_t *sums_xxh3,
                   const volatile bool *cancel, char **error) {
    return guarded(error, false, [&] {
        const SumsTable table = sum_file(text(path, "path"), unit, polled(cancel));
        bool direct = false;
        const Fd fd = create_exclusive(text(sums_path, "sums_path"), direct);
        try {
            const uint64_t sum = write_sums(table, fd.get(), sums_path);
            if (sums_xxh3 != nullptr) {
                *sums_xxh3 = sum;
            }
        } catch (...) {
            unlink(sums_path);
            throw;
        }
        return true;
    });
}

bool hs_sums_verify(const char *path, const char *sums_path, bool *good, uint64_t *bad_offset,
                    const volatile bool *cancel, char **error) {
    return guarded(error, false, [&] {
        const auto bad =
            find_mismatch(text(path, "path"), text(sums_path, "sums_path"), polled(cancel));
        *good = !bad;
        *bad_offset = bad.value_or(0);
        return true;
    });
}

bool hs_file_xxh3(const char *path, uint64_t *xxh3, char **error) {
    return guarded(error, false, [&] {
        *xxh3 = file_xxh3(text(path, "path"));
        return true;
    });
}
