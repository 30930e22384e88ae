// SPDX-License-Identifier: GPL-2.0-or-later
//
// The C interface of restore.h: translates arguments, and exceptions to messages. Nothing else.
#include "hotsnap/restore.h"

#include "base/c_boundary.h"
#include "base/error.h"
#include "guest/ram_block.h"
#include "restore/lazy_loader.h"

#include <algorithm>
#include <cstring>

using namespace hotsnap;
using namespace hotsnap::memory;

struct hs_load {
    explicit hs_load(LoadOptions options) : loader(std::move(options)) {}
    LazyLoader loader;
};

namespace {

LoadOptions options_from(const hs_load_options &given) {
    hs_load_options c;
    hs_load_options_init(&c);
    if (given.struct_size < sizeof(size_t)) {
        throw Error("struct_size is not set");
    }
    std::memcpy(&c, &given, std::min(given.struct_size, sizeof(c)));
    if (c.image_path == nullptr || c.sums_path == nullptr) {
        throw Error("image_path or sums_path is missing");
    }
    LoadOptions options;
    options.image_path = c.image_path;
    options.sums_path = c.sums_path;
    options.sums_xxh3 = c.sums_xxh3;
    options.access_path = c.access_path == nullptr ? "" : c.access_path;
    if (c.window != HS_WINDOW_AUTO) {
        options.window = c.window / page_bytes;
    }
    options.section_id = c.ram_section_id;
    options.bandwidth = c.bandwidth;
    options.vcpu_tids.assign(c.vcpu_tids, c.vcpu_tids + c.vcpu_tid_count);
    if (c.on_failed != nullptr) {
        options.on_failed = [call = c.on_failed, opaque = c.opaque](const std::string &message) {
            call(opaque, message.c_str());
        };
    }
    if (c.on_complete != nullptr) {
        options.on_complete = [call = c.on_complete, opaque = c.opaque] { call(opaque); };
    }
    return options;
}

} // namespace

void hs_load_options_init(hs_load_options *options) {
    *options = {};
    options->struct_size = sizeof(*options);
    options->window = HS_WINDOW_AUTO;
}

hs_load *hs_load_open(const hs_load_options *options, char **error) {
    return guarded<hs_load *>(error, nullptr, [&] { return new hs_load(options_from(*options)); });
}

bool hs_load_attach(hs_load *l, const hs_ram_block *blocks, size_t block_count, bool *changed,
                    char **error) {
    *changed = false;
    return guarded(error, false, [&] {
        l->loader.attach(blocks_from(blocks, block_count), *changed);
        return true;
    });
}

bool hs_load_takes(hs_load *l, const char *idstr, uint64_t length, uint64_t pages_offset) {
    return guarded(nullptr, false, [&] { return l->loader.takes(idstr, length, pages_offset); });
}

bool hs_load_ready(hs_load *l) {
    return guarded(nullptr, true, [&] { return l->loader.ready(); });
}

void hs_load_running(hs_load *l) {
    guarded([&] { l->loader.running(); });
}

void hs_load_get_stats(hs_load *l, hs_load_stats *stats) {
    guarded([&] {
        hs_load_stats now{};
        l->loader.get_stats(now);
        now.struct_size = stats->struct_size;
        std::memcpy(stats, &now, std::min(stats->struct_size, sizeof(now)));
    });
}

bool hs_load_get_failure(hs_load *l, hs_load_failure *failure) {
    return guarded(nullptr, false, [&] {
        const auto found = l->loader.failure();
        if (found) {
            *failure = {c_string(found->message), c_string(found->block), found->block_offset,
                        found->file_offset};
        }
        return found.has_value();
    });
}

void hs_load_set_bandwidth(hs_load *l, uint64_t bytes_per_second) {
    guarded([&] { l->loader.set_bandwidth(bytes_per_second); });
}

void hs_load_retry(hs_load *l) {
    guarded([&] { l->loader.retry(); });
}

bool hs_load_wait(hs_load *l, const volatile bool *cancel, char **error) {
    return guarded(error, false, [&] {
        l->loader.wait([cancel] { return cancel != nullptr && *cancel; });
        return true;
    });
}

void hs_load_forget(hs_load *l, const void *host) {
    guarded([&] { l->loader.forget(host); });
}

bool hs_load_free(hs_load *l) {
    if (l != nullptr && !l->loader.may_end()) {
        return false;
    }
    guarded([&] { delete l; });
    return true;
}
