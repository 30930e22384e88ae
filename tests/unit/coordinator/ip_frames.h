// SPDX-License-Identifier: GPL-2.0-or-later
// Frames with ARP, IPv6 neighbor discovery and IP.
#ifndef HOTSNAP_IP_FRAMES_H
#define HOTSNAP_IP_FRAMES_H

#include <cstdint>
#include <string>
#include <vector>

#include <arpa/inet.h>

#include "mediator_case.h"
#include "network/ip_address.h"

namespace hotsnap::network {

using Frame = std::vector<uint8_t>; // without a virtio-net header

inline IpAddress ip(const char *text) {
    return *IpAddress::parse(text);
}

// The four bytes of an IPv4 address, or the 16 of an IPv6 one.
inline Frame bytes_of(const IpAddress &address) {
    const std::string text = address.to_string();
    const bool v4 = text.find(':') == std::string::npos;
    Frame all(v4 ? 4 : 16);
    inet_pton(v4 ? AF_INET : AF_INET6, text.c_str(), all.data());
    return all;
}

inline Frame ethernet(Mac from, Mac to, uint16_t type, int vlans = 0) {
    Frame frame = bytes(from, to, 0);
    frame.resize(12);
    for (int i = 0; i < vlans; i++) {
        frame.insert(frame.end(), {0x81, 0x00, 0x00, 0x05});
    }
    frame.insert(frame.end(), {static_cast<uint8_t>(type >> 8), static_cast<uint8_t>(type)});
    return frame;
}

inline void append(Frame &frame, const Frame &more) {
    frame.insert(frame.end(), more.begin(), more.end());
}

inline Frame arp(Mac from, const char *sender, uint8_t operation = 1, int vlans = 0) {
    Frame frame = ethernet(from, everyone, 0x0806, vlans);
    append(frame, {0, 1, 8, 0, 6, 4, 0, operation});
    Frame mac(6);
    from.to_bytes(mac.data());
    append(frame, mac);
    append(frame, bytes_of(ip(sender)));
    append(frame, Frame(10));
    return frame;
}

// Neighbor discovery: 135 is a solicitation, 136 an advertisement.
inline Frame discovery(Mac from, uint8_t type, const char *source, const char *target,
                       uint8_t hop_limit = 255) {
    Frame frame = ethernet(from, everyone, 0x86dd);
    append(frame, {0x60, 0, 0, 0, 0, 24, 58, hop_limit});
    append(frame, bytes_of(ip(source)));
    append(frame, bytes_of(ip("ff02::1")));
    append(frame, {type, 0, 0, 0, 0, 0, 0, 0});
    append(frame, bytes_of(ip(target)));
    return frame;
}

inline Frame packet(Mac from, Mac to, const char *source, const char *destination, int vlans = 0) {
    const Frame ends[] = {bytes_of(ip(source)), bytes_of(ip(destination))};
    const bool v4 = ends[0].size() == 4;
    Frame frame = ethernet(from, to, v4 ? 0x0800 : 0x86dd, vlans);
    append(frame, v4 ? Frame{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0}
                     : Frame{0x60, 0, 0, 0, 0, 0, 17, 64});
    append(frame, ends[0]);
    append(frame, ends[1]);
    return frame;
}

} // namespace hotsnap::network
#endif
