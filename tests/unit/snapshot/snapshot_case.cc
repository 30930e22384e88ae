// SPDX-License-Identifier: GPL-2.0-or-later
#include "snapshot_case.h"

namespace hotsnap::memory::test {

namespace {

std::vector<std::byte> bytes_of(const char *text, size_t length) {
    const auto *bytes = reinterpret_cast<const std::byte *>(text);
    return {bytes, bytes + length};
}

// `error` is a reference, so that it is read only after the call that stores it.
std::string message(bool good, char *const &error) {
    if (good) {
        return {};
    }
    const std::string text = error == nullptr ? "no message" : error;
    hs_string_free(error);
    return text;
}

} // namespace

const std::vector<std::byte> Snapshot::head = bytes_of("QEVM\0\0\0\3head", 12);
const std::vector<std::byte> Snapshot::tail = bytes_of("devices and all that\0end", 24);

Snapshot::Snapshot(std::vector<const Region *> regions) : regions_(std::move(regions)) {
    image = folder.path("state");
    sums = folder.path("state.sums");
    hs_snapshot_options_init(&options);
    options.engine = "uffd";
    options.image_path = image.c_str();
    options.sums_path = sums.c_str();
    options.stream_head = head.data();
    options.stream_head_size = head.size();
    options.ram_section_id = 2;
    options.on_finished = finished;
    options.opaque = this;
}

Snapshot::~Snapshot() {
    free();
}

void Snapshot::free() {
    hs_snapshot_free(handle_);
    handle_ = nullptr;
}

std::string Snapshot::create() {
    std::vector<hs_ram_block> blocks;
    for (const Region *region : regions_) {
        blocks.push_back(region->block());
        if (adjust) {
            adjust(blocks.back());
        }
    }
    char *error = nullptr;
    handle_ = hs_snapshot_new(&options, blocks.data(), blocks.size(), &error);
    return message(handle_ != nullptr, error);
}

std::string Snapshot::precopy() {
    char *error = nullptr;
    return message(hs_snapshot_precopy(handle_, &converged, &error), error);
}

std::string Snapshot::arm(uint64_t max_us) {
    char *error = nullptr;
    return message(hs_snapshot_arm(handle_, max_us, &error), error);
}

std::string Snapshot::cut() {
    char *error = nullptr;
    return message(hs_snapshot_cut(handle_, &error), error);
}

std::string Snapshot::start() {
    char *error = nullptr;
    return message(hs_snapshot_start(handle_, tail.data(), tail.size(), &error), error);
}

std::string Snapshot::dump(const std::string &path) {
    char *error = nullptr;
    return message(hs_snapshot_dump(handle_, path.c_str(), &error), error);
}

std::string Snapshot::compare_sums() const {
    bool good = false;
    uint64_t bad_offset = 0;
    char *error = nullptr;
    if (!hs_sums_verify(image.c_str(), sums.c_str(), &good, &bad_offset, nullptr, &error)) {
        return message(false, error);
    }
    return good ? "" : "differs at " + std::to_string(bad_offset);
}

void Snapshot::finished(void *opaque, const char *error) {
    auto *self = static_cast<Snapshot *>(opaque);
    const std::lock_guard lock(self->mutex_);
    self->finished_calls_++;
    self->finished_error_ = error == nullptr ? "" : error;
    self->changed_.notify_all();
}

std::string Snapshot::wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return finished_calls_ > 0; });
    return finished_error_;
}

int Snapshot::finished_calls() {
    const std::lock_guard lock(mutex_);
    return finished_calls_;
}

std::map<std::string, std::vector<std::byte>> Snapshot::copy() const {
    std::map<std::string, std::vector<std::byte>> copies;
    for (const Region *region : regions_) {
        copies[region->block().idstr] = region->copy();
    }
    return copies;
}

LoadedImage Snapshot::load(const std::string &path) const {
    return load_image(path, head, options.section_footer, options.ram_section_id);
}

hs_snapshot_stats Snapshot::stats() const {
    hs_snapshot_stats stats{};
    stats.struct_size = sizeof(stats);
    hs_snapshot_get_stats(handle_, &stats);
    return stats;
}

} // namespace hotsnap::memory::test
