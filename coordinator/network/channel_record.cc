// SPDX-License-Identifier: GPL-2.0-or-later
#include "network/channel_record.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace hotsnap::network {

namespace {

using Bytes = std::vector<uint8_t>;

constexpr uint32_t pcap_magic_ns = 0xa1b23c4d;
constexpr uint32_t pcap_snap_length = 262144; // the largest that readers accept
constexpr uint32_t linktype_ethernet = 1;
constexpr size_t pcap_header_size = 24;
constexpr size_t pcap_record_size = 16;

constexpr char vnet_magic[8] = {'H', 'S', 'V', 'N', 'E', 'T', '0', '1'};
constexpr size_t vnet_header_size = 24;
constexpr uint32_t vnet_record_size = 20;

constexpr int64_t second_ns = 1'000'000'000;

void put(Bytes &out, uint64_t value, int octets) { // little-endian
    for (int i = 0; i < octets; i++) {
        out.push_back(static_cast<uint8_t>(value >> 8 * i));
    }
}

uint64_t get(const Bytes &in, size_t at, int octets) {
    uint64_t value = 0;
    for (int i = octets - 1; i >= 0; i--) {
        value = value << 8 | in[at + static_cast<size_t>(i)];
    }
    return value;
}

std::string system_error(const std::string &what, const std::string &path) {
    return "cannot " + what + " " + path + ": " + std::strerror(errno);
}

bool write_new_file(const std::string &path, const Bytes &content, std::string &error) {
    const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        error = system_error("create", path);
        return false;
    }
    size_t done = 0;
    while (done < content.size()) {
        const ssize_t n = ::write(fd, content.data() + done, content.size() - done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            error = system_error("write", path);
            break;
        }
        done += static_cast<size_t>(n);
    }
    bool good = done == content.size();
    if (good && fsync(fd) != 0) {
        error = system_error("fsync", path);
        good = false;
    }
    if (close(fd) != 0 && good) {
        error = system_error("close", path);
        good = false;
    }
    if (!good) {
        unlink(path.c_str());
    }
    return good;
}

std::optional<Bytes> read_file(const std::string &path, std::string &error) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status {};
    if (fd < 0 || fstat(fd, &status) != 0) {
        error = system_error("read", path);
        if (fd >= 0) {
            close(fd);
        }
        return std::nullopt;
    }
    Bytes content(static_cast<size_t>(std::max<off_t>(status.st_size, 0)));
    size_t done = 0;
    while (done < content.size()) {
        const ssize_t n = ::read(fd, content.data() + done, content.size() - done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            error = system_error("read", path);
            close(fd);
            return std::nullopt;
        }
        if (n == 0) {
            break;
        }
        done += static_cast<size_t>(n);
    }
    close(fd);
    content.resize(done);
    return content;
}

bool is_vnet_size(size_t size) {
    return size == 0 || size == 10 || size == 12;
}

} // namespace

bool ChannelRecord::append(ChannelFrame frame) {
    const size_t cost = frame.data.size() + sizeof(ChannelFrame);
    if (cost > limit_bytes_ - bytes_ || frame.data.size() - frame.vnet_size > pcap_snap_length) {
        return false;
    }
    bytes_ += cost;
    frame_bytes_ += frame.data.size() - frame.vnet_size;
    frames_.push_back(std::move(frame));
    return true;
}

void ChannelRecord::clear() {
    frames_.clear();
    frames_.shrink_to_fit();
    bytes_ = 0;
    frame_bytes_ = 0;
}

bool ChannelRecord::write(const std::string &pcap_path, const std::string &vnet_path,
                          std::string &error) const {
    Bytes pcap;
    pcap.reserve(pcap_header_size + frame_bytes_ + frames_.size() * pcap_record_size);
    put(pcap, pcap_magic_ns, 4);
    put(pcap, 2, 2); // version 2.4
    put(pcap, 4, 2);
    put(pcap, 0, 8); // time zone and accuracy: always 0
    put(pcap, pcap_snap_length, 4);
    put(pcap, linktype_ethernet, 4);

    Bytes vnet(vnet_magic, vnet_magic + sizeof(vnet_magic));
    put(vnet, vnet_record_size, 4);
    put(vnet, 0, 4);
    put(vnet, frames_.size(), 8);

    for (const ChannelFrame &frame : frames_) {
        const int64_t time = std::max<int64_t>(frame.time_ns, 0);
        const size_t length = frame.data.size() - frame.vnet_size;
        put(pcap, static_cast<uint64_t>(time / second_ns), 4);
        put(pcap, static_cast<uint64_t>(time % second_ns), 4);
        put(pcap, length, 4);
        put(pcap, length, 4);
        const auto split = frame.data.begin() + static_cast<std::ptrdiff_t>(frame.vnet_size);
        pcap.insert(pcap.end(), split, frame.data.end());

        put(vnet, frame.nic, 4);
        put(vnet, frame.vnet_size, 1);
        put(vnet, frame.from_guest, 1);
        put(vnet, frame.queue, 2);
        vnet.insert(vnet.end(), frame.data.begin(), split);
        vnet.resize(vnet.size() + ChannelFrame::largest_vnet - frame.vnet_size);
    }
    if (!write_new_file(pcap_path, pcap, error)) {
        return false;
    }
    if (!write_new_file(vnet_path, vnet, error)) {
        unlink(pcap_path.c_str());
        return false;
    }
    return true;
}

std::optional<std::vector<ChannelFrame>> ChannelRecord::read(const std::string &pcap_path,
                                                             const std::string &vnet_path,
                                                             std::string &error) {
    const std::optional<Bytes> pcap = read_file(pcap_path, error);
    if (!pcap) {
        return std::nullopt;
    }
    const std::optional<Bytes> vnet = read_file(vnet_path, error);
    if (!vnet) {
        return std::nullopt;
    }
    const auto bad = [&error](const std::string &path, size_t offset, const std::string &what) {
        error = path + ": " + what + " at offset " + std::to_string(offset) +
                "; the bundle is damaged, verify it and use another";
        return std::nullopt;
    };
    if (pcap->size() < pcap_header_size || get(*pcap, 0, 4) != pcap_magic_ns ||
        get(*pcap, 4, 2) != 2 || get(*pcap, 20, 4) != linktype_ethernet) {
        return bad(pcap_path, 0, "not a nanosecond Ethernet pcap");
    }
    if (vnet->size() < vnet_header_size ||
        std::memcmp(vnet->data(), vnet_magic, sizeof(vnet_magic)) != 0 ||
        get(*vnet, 8, 4) != vnet_record_size || get(*vnet, 12, 4) != 0) {
        return bad(vnet_path, 0, "not a channel sidecar of a known version");
    }
    const uint64_t count = get(*vnet, 16, 8);
    const size_t body = vnet->size() - vnet_header_size;
    if (body % vnet_record_size != 0 || body / vnet_record_size != count) {
        return bad(vnet_path, vnet->size(),
                   "the file ends, but " + std::to_string(count) + " records were announced,");
    }

    std::vector<ChannelFrame> frames;
    frames.reserve(count);
    size_t at = pcap_header_size;
    for (uint64_t i = 0; i < count; i++) {
        if (pcap->size() - at < pcap_record_size) {
            return bad(pcap_path, at, "no record header of frame " + std::to_string(i));
        }
        const uint64_t nanoseconds = get(*pcap, at + 4, 4);
        const uint64_t length = get(*pcap, at + 8, 4);
        if (nanoseconds >= second_ns || length != get(*pcap, at + 12, 4) ||
            length > pcap_snap_length || length > pcap->size() - at - pcap_record_size) {
            return bad(pcap_path, at, "impossible record of frame " + std::to_string(i));
        }
        const size_t side = vnet_header_size + static_cast<size_t>(i) * vnet_record_size;
        const uint64_t vnet_size = get(*vnet, side + 4, 1);
        const uint64_t direction = get(*vnet, side + 5, 1);
        if (!is_vnet_size(vnet_size) || direction > 1) {
            return bad(vnet_path, side,
                       "impossible header size or direction of frame " + std::to_string(i));
        }
        ChannelFrame frame;
        frame.nic = static_cast<uint32_t>(get(*vnet, side, 4));
        frame.from_guest = direction == 1;
        frame.queue = static_cast<uint32_t>(get(*vnet, side + 6, 2));
        frame.time_ns =
            static_cast<int64_t>(get(*pcap, at, 4)) * second_ns + static_cast<int64_t>(nanoseconds);
        frame.vnet_size = vnet_size;
        const auto header = vnet->begin() + static_cast<std::ptrdiff_t>(side + 8);
        frame.data.assign(header, header + static_cast<std::ptrdiff_t>(vnet_size));
        at += pcap_record_size;
        const auto bytes = pcap->begin() + static_cast<std::ptrdiff_t>(at);
        frame.data.insert(frame.data.end(), bytes, bytes + static_cast<std::ptrdiff_t>(length));
        at += length;
        frames.push_back(std::move(frame));
    }
    if (at != pcap->size()) {
        return bad(pcap_path, at, "more frames than the sidecar knows");
    }
    return frames;
}

} // namespace hotsnap::network
