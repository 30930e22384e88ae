// SPDX-License-Identifier: GPL-2.0-or-later
#include "network/probe.h"

#include <algorithm>

namespace hotsnap::network {

namespace {

constexpr uint16_t ether_type = 0x88b5;
constexpr std::array<uint8_t, 8> magic = {'H', 'S', 'P', 'R', 'O', 'B', 'E', '1'};
constexpr size_t magic_at = 14;
constexpr size_t epoch_at = magic_at + magic.size();
constexpr size_t nic_at = epoch_at + 8;
constexpr size_t kind_at = nic_at + 6;
constexpr size_t queue_at = kind_at + 1;
constexpr size_t length = 60; // the shortest frame of Ethernet, without its checksum

void put(std::span<uint8_t> to, uint64_t value) { // big-endian
    for (size_t i = to.size(); i-- > 0; value >>= 8) {
        to[i] = static_cast<uint8_t>(value);
    }
}

} // namespace

std::vector<uint8_t> Probe::frame(Mac source, size_t vnet_size) const {
    std::vector<uint8_t> data(vnet_size + length);
    const std::span<uint8_t> bytes = std::span(data).subspan(vnet_size);
    put(bytes.subspan(0, 6), 0xffff'ffff'ffff);
    put(bytes.subspan(6, 6), source.value());
    put(bytes.subspan(12, 2), ether_type);
    std::copy(magic.begin(), magic.end(), bytes.begin() + magic_at);
    put(bytes.subspan(epoch_at, 8), epoch);
    put(bytes.subspan(nic_at, 6), nic.value());
    bytes[kind_at] = static_cast<uint8_t>(kind);
    put(bytes.subspan(queue_at, 2), queue);
    return data;
}

std::optional<Probe> Probe::parse(const FrameView &view) {
    const std::span<const uint8_t> b = view.bytes;
    if (b.size() < length || b[12] != ether_type >> 8 || b[13] != (ether_type & 0xff) ||
        !std::equal(magic.begin(), magic.end(), b.begin() + magic_at)) {
        return std::nullopt;
    }
    Probe probe;
    for (size_t i = 0; i < 8; i++) {
        probe.epoch = probe.epoch << 8 | b[epoch_at + i];
    }
    probe.nic = Mac::from_bytes(&b[nic_at]);
    probe.kind =
        static_cast<Kind>(std::min<uint8_t>(b[kind_at], static_cast<uint8_t>(Kind::moved_red)));
    probe.queue = static_cast<uint16_t>(b[queue_at] << 8 | b[queue_at + 1]);
    return probe;
}

} // namespace hotsnap::network
