// SPDX-License-Identifier: GPL-2.0-or-later
#include "frames.h"

#include <stdexcept>

#include "network/probe.h"

namespace hotsnap::sim {

namespace {

constexpr size_t headers = 14 + 20 + 20; // Ethernet, IPv4, TCP
constexpr size_t segment_size = 16;

void put_mac(std::vector<uint8_t> &out, Mac mac) {
    for (int shift = 40; shift >= 0; shift -= 8) {
        out.push_back(static_cast<uint8_t>(mac.value() >> shift));
    }
}

} // namespace

std::vector<uint8_t> to_bytes(const Frame &frame, size_t vnet_size) {
    std::vector<uint8_t> out(vnet_size);
    if (!frame.probe.empty()) {
        out.insert(out.end(), frame.probe.begin(), frame.probe.end());
        return out;
    }
    if (frame.segments.size() > 1) {
        if (vnet_size == 0) {
            throw std::logic_error("several segments for a NIC without offload");
        }
        out[1] = 1; // VIRTIO_NET_HDR_GSO_TCPV4
        // As in Linux, hdr_len is the packet's linear length, which may be more than the headers.
        out[2] = static_cast<uint8_t>(headers + frame.segments.size() % 3);
        out[4] = segment_size;
    }
    put_mac(out, frame.destination);
    put_mac(out, frame.source);
    out.push_back(0x08);
    out.push_back(0x00);
    const size_t ip = out.size();
    out.resize(ip + 40);
    out[ip] = 0x45;
    out[ip + 9] = 6;
    out[ip + 20 + 12] = 0x50;
    for (const uint64_t segment : frame.segments) {
        for (const uint64_t word : {segment, ~segment}) {
            for (int shift = 0; shift < 64; shift += 8) {
                out.push_back(static_cast<uint8_t>(word >> shift));
            }
        }
    }
    return out;
}

Frame from_bytes(const uint8_t *data, size_t size, size_t vnet_size) {
    const uint8_t *bytes = data + vnet_size;
    if (const auto view = FrameView::parse(data, size, vnet_size); view && Probe::parse(*view)) {
        return {view->source(), view->destination(), {}, {bytes, data + size}};
    }
    if (size < vnet_size + headers || (size - vnet_size - headers) % segment_size != 0) {
        throw std::logic_error("a frame was damaged");
    }
    Frame frame{Mac::from_bytes(bytes + 6), Mac::from_bytes(bytes), {}, {}};
    for (size_t at = headers; at < size - vnet_size; at += segment_size) {
        uint64_t word[2] = {};
        for (size_t i = 0; i < segment_size; i++) {
            word[i / 8] |= static_cast<uint64_t>(bytes[at + i]) << 8 * (i % 8);
        }
        if (word[0] != ~word[1]) {
            throw std::logic_error("a frame's payload was damaged");
        }
        frame.segments.push_back(word[0]);
    }
    return frame;
}

} // namespace hotsnap::sim
