// SPDX-License-Identifier: GPL-2.0-or-later
// The recorded channel state of a member, in memory and as a pair of files
// (docs/formats/channel.md): a pcap of the frames, and a sidecar with the NIC, the direction and
// the virtio-net header of each, for which pcap has no place.
#ifndef HOTSNAP_NETWORK_CHANNEL_RECORD_H
#define HOTSNAP_NETWORK_CHANNEL_RECORD_H

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace hotsnap::network {

struct ChannelFrame {
    static constexpr size_t largest_vnet = 12;

    uint32_t nic = 0;
    uint32_t queue = 0;        // of the NIC
    bool from_guest = false;   // held back at the cut; else for the guest
    int64_t time_ns = 0;       // host realtime clock
    size_t vnet_size = 0;      // 0, 10 or 12
    std::vector<uint8_t> data; // virtio-net header and frame
};

class ChannelRecord {
  public:
    explicit ChannelRecord(size_t limit_bytes) : limit_bytes_(limit_bytes) {}

    // False when the bound is reached; the frame is not recorded then.
    bool append(ChannelFrame frame);
    const std::vector<ChannelFrame> &frames() const { return frames_; }
    uint64_t frame_bytes() const { return frame_bytes_; } // without virtio-net headers
    void clear();

    // Neither file may exist; both are fsynced. On failure neither is left.
    bool write(const std::string &pcap_path, const std::string &vnet_path,
               std::string &error) const;
    // Reads both and checks that they belong together.
    static std::optional<std::vector<ChannelFrame>>
    read(const std::string &pcap_path, const std::string &vnet_path, std::string &error);

  private:
    std::vector<ChannelFrame> frames_;
    size_t limit_bytes_;
    size_t bytes_ = 0;
    uint64_t frame_bytes_ = 0;
};

} // namespace hotsnap::network
#endif
