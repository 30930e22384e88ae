# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads a member's recorded channel state (a pcap file, and its sidecar) for the guests' numbered
UDP messages.

The message is that of tests/guest/src/hs-message.h.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hotsnap.errors import HotsnapError

CHATTER_PORT = 7701
LINKTYPE_ETHERNET = 1
ETHERTYPE_IPV4, PROTOCOL_UDP = b"\x08\x00", 17
ETHERTYPES_TAG = (b"\x81\x00", b"\x88\xa8")  # 802.1Q, 802.1ad
TO_GUEST, FROM_GUEST = 0, 1
_MESSAGE = struct.Struct("<8sQQ32sQ")
_MESSAGE_MAGIC = b"HSCHAT01"
_VNET_HEADER, _VNET_RECORD = struct.Struct("<8sIIQ"), struct.Struct("<IBB14x")
_VNET_MAGIC = b"HSVNET01"
_PCAP_MAGICS = {b"\xd4\xc3\xb2\xa1": "<", b"\x4d\x3c\xb2\xa1": "<",
                b"\xa1\xb2\xc3\xd4": ">", b"\xa1\xb2\x3c\x4d": ">"}


class ChannelError(HotsnapError):
    """The file is no whole pcap file of Ethernet frames; the text names the fault."""


def frames(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The frames of a pcap file, in order."""
    with open(path, "rb") as file:
        header = file.read(24)
        order = _PCAP_MAGICS.get(header[:4])
        if order is None or len(header) < 24:
            raise ChannelError(f"{path}: is no pcap file")
        if struct.unpack_from(f"{order}I", header, 20)[0] & 0xFFFFFFF != LINKTYPE_ETHERNET:
            raise ChannelError(f"{path}: holds something else than Ethernet frames")
        while record := file.read(16):
            at = file.tell()
            size = struct.unpack_from(f"{order}I", record, 8)[0] if len(record) == 16 else 0
            frame = file.read(size)
            if len(record) < 16 or len(frame) < size:
                raise ChannelError(f"{path}: truncated at offset {at}")
            yield frame


def udp_payload(frame: bytes, port: int) -> tuple[str, bytes] | None:
    """Destination and payload of a UDP datagram over IPv4 to `port`, or of its first fragment; None
    for other frames."""
    at = 12
    while frame[at:at + 2] in ETHERTYPES_TAG:
        at += 4
    if frame[at:at + 2] != ETHERTYPE_IPV4:
        return None
    ip = frame[at + 2:]
    header = (ip[0] & 0xF) * 4 if ip else 0
    if header < 20 or len(ip) < header + 8 or ip[9] != PROTOCOL_UDP:
        return None
    if int.from_bytes(ip[6:8], "big") & 0x1FFF:
        return None
    if int.from_bytes(ip[header + 2:header + 4], "big") != port:
        return None
    end = min(header + int.from_bytes(ip[header + 4:header + 6], "big"),
              int.from_bytes(ip[2:4], "big"))
    return ".".join(str(byte) for byte in ip[16:20]), ip[header + 8:end]


def directions(path: str | os.PathLike[str]) -> list[int]:
    """The direction of each frame, from the sidecar channel.vnet (docs/formats/channel.md)."""
    return [direction for _, direction in places(path)]


def places(path: str | os.PathLike[str]) -> list[tuple[int, int]]:
    """NIC's number and direction of each frame, from the sidecar."""
    data = Path(path).read_bytes()
    if len(data) < _VNET_HEADER.size:
        raise ChannelError(f"{path}: is no sidecar of a channel")
    magic, size, _, count = _VNET_HEADER.unpack_from(data)
    if magic != _VNET_MAGIC or size != _VNET_RECORD.size:
        raise ChannelError(f"{path}: is no sidecar of a channel")
    if len(data) != _VNET_HEADER.size + count * size:
        raise ChannelError(f"{path}: its size does not fit {count} records")
    found = [(nic, direction)
             for nic, _, direction in _VNET_RECORD.iter_unpack(data[_VNET_HEADER.size:])]
    if not {direction for _, direction in found} <= {TO_GUEST, FROM_GUEST}:
        raise ChannelError(f"{path}: has an unknown direction")
    return found


@dataclass(frozen=True)
class Message:
    """A numbered message of `sender` to the IP address `ip`, in a frame to the MAC address `to`.
    FROM_GUEST is a frame that the recording member's guest had sent, TO_GUEST one that it had not
    received yet."""

    sender: str
    number: int
    to: str
    direction: int = TO_GUEST
    ip: str = ""


def messages(path: str | os.PathLike[str],
             vnet: str | os.PathLike[str] | None = None) -> Iterator[Message]:
    """The numbered messages in the file, in order. Without the sidecar `vnet` all of them are
    TO_GUEST."""
    found = list(frames(path))
    ways = [TO_GUEST] * len(found) if vnet is None else directions(vnet)
    if len(ways) != len(found):
        raise ChannelError(f"{vnet}: has {len(ways)} records, and {path} {len(found)} frames")
    for frame, direction in zip(found, ways):
        ip, payload = udp_payload(frame, CHATTER_PORT) or ("", b"")
        if len(payload) < _MESSAGE.size:
            continue
        magic, _, number, sender, _ = _MESSAGE.unpack_from(payload)
        if magic == _MESSAGE_MAGIC:
            yield Message(sender.split(b"\0", 1)[0].decode("ascii", "replace"), number,
                          frame[:6].hex(":"), direction, ip)
