// SPDX-License-Identifier: GPL-2.0-or-later
// Frames whose payload names their segments, 16 bytes each: a frame of several segments (TCP
// segmentation offload) can be segmented on the way and still be followed.
#ifndef HOTSNAP_SIM_FRAMES_H
#define HOTSNAP_SIM_FRAMES_H

#include <cstddef>
#include <cstdint>
#include <vector>

#include "names.h"

namespace hotsnap::sim {

struct Frame {
    Mac source; // as on the wire: colored
    Mac destination;
    std::vector<uint64_t> segments;
    std::vector<uint8_t> probe; // the frame, if a mediator sent it and no guest
};

// The frame's bytes for a NIC with a virtio-net header of that size (0, 10 or 12). Without a
// header, a frame must have one segment.
std::vector<uint8_t> to_bytes(const Frame &frame, size_t vnet_size);
Frame from_bytes(const uint8_t *data, size_t size, size_t vnet_size);

} // namespace hotsnap::sim
#endif
