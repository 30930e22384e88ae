// SPDX-License-Identifier: GPL-2.0-or-later
// Reads an Ethernet frame with or without a virtio-net header before it. Nothing is written, and
// nothing outside the given bytes is read. The first bytes of a frame are enough.
#ifndef HOTSNAP_NETWORK_FRAME_H
#define HOTSNAP_NETWORK_FRAME_H

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "network/mac.h"

namespace hotsnap::network {

struct FrameView {
    std::span<const uint8_t> vnet;  // virtio-net header, may be empty
    std::span<const uint8_t> bytes; // from the destination MAC on, at least 14, maybe not all
    size_t length = 0;              // of the whole frame from the destination MAC on

    // `head` bytes of `size` are at `data`.
    static std::optional<FrameView> parse(const uint8_t *data, size_t head, size_t size,
                                          size_t vnet_size);
    static std::optional<FrameView> parse(const uint8_t *data, size_t size, size_t vnet_size) {
        return parse(data, size, size, vnet_size);
    }

    Mac destination() const { return Mac::from_bytes(bytes.data()); }
    Mac source() const { return Mac::from_bytes(bytes.data() + 6); }
    // What the frame carries, behind VLAN tags. A head that ends before is of no type.
    struct Payload {
        uint16_t ether_type = 0;
        std::span<const uint8_t> bytes;
    };
    Payload payload() const;
    bool is_untagged_ipv4() const { return bytes[12] == 0x08 && bytes[13] == 0; }
    /*
     * The number of frames on a wire without segmentation offload. A bridge may segment on the way
     * between two members, so the frames sent and the frames received would not add up.
     */
    uint64_t segments() const;
};

} // namespace hotsnap::network
#endif
