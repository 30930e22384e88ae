# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the offline readers share: mapped-ram images, tags and frames made by hand."""

import socket
import struct

from support import tags

PAGE = 4096
MIB = 1 << 20


def string(text):
    return bytes([len(text)]) + text.encode()


def image(blocks, version=3, capabilities=("mapped-ram",), description=None):
    """A whole image; `blocks` is {name: (pages, {index: content or None for absent})}."""
    out = bytearray(struct.pack(">II", 0x5145564D, version))
    out += b"\x07" + struct.pack(">I", 8) + b"pc-test1"
    out += b"\x05" + string("configuration/capabilities")
    out += struct.pack(">II", 1, len(capabilities)) + b"".join(map(string, capabilities))
    out += b"\x01" + struct.pack(">I", 2) + string("ram") + struct.pack(">II", 0, 4)
    out += struct.pack(">Q", sum(pages for pages, _ in blocks.values()) * PAGE | 4)
    for name, (pages, contents) in blocks.items():
        out += string(name) + struct.pack(">Q", pages * PAGE)
        bitmap_at = len(out) + 28
        bits = sum(1 << index for index, data in contents.items() if data is not None)
        bitmap = bits.to_bytes((pages + 63) // 64 * 8, "little")
        pages_at = (bitmap_at + len(bitmap) + MIB - 1) // MIB * MIB
        out += struct.pack(">IQQQ", 1, PAGE, bitmap_at, pages_at) + bitmap
        out += bytes(pages_at + pages * PAGE - len(out))
        for index, data in contents.items():
            if data is not None:
                at = pages_at + index * PAGE
                out[at:at + PAGE] = data.ljust(PAGE, b"\0")
    out += struct.pack(">QBI", 0x10, 0x7E, 2)
    out += b"\x04" + struct.pack(">I", 5) + string("cpu") + struct.pack(">II", 0, 1) + b"state"
    text = description or b'{"page_size":4096,"devices":[{"name":"cpu","instance_id":0}]}'
    out += b"\x00\x06" + struct.pack(">I", len(text)) + text
    return bytes(out)


def chatter(name, peers, nonce=None):
    """A chatter tag; `peers` is {peer: dict of counts that are not 0}."""
    entries = []
    for peer, counts in peers.items():
        values = dict.fromkeys(tags.ChatterCount.__dataclass_fields__, 0)
        values.update(peer=peer, peer_nonce=nonce_of(peer), **counts)
        entries.append(tags.ChatterCount(**values))
    return tags.Tag(tags.CHATTER, name, nonce or nonce_of(name), 1, entries)


def nonce_of(name):
    return int.from_bytes(name.encode().ljust(8, b"n")[:8], "little")


def member_image(*member_tags):
    """An image with the given tags on scattered pages, among others that are no tags."""
    contents = {0: b"boot", 70: tags.MAGIC + b"and nothing more", 71: None}
    for place, tag in enumerate(member_tags):
        contents[64 + 100 * place] = tags.build(tag)
    return image({"pc.ram": (400, contents), "pc.bios": (3, {1: b"bios"})})


def message_frame(sender, number, to="525400770002", port=7701, ip="10.77.0.2", tags="",
                  fragment=0x4000, padding=0):
    """The Ethernet frame of one numbered UDP message, with VLAN `tags`. `fragment` is that field of
    the IP header; `padding` bytes follow the message."""
    payload = struct.pack("<8sQQ32sQ", b"HSCHAT01", nonce_of(sender), number, sender.encode(), 0)
    udp = struct.pack(">HHHH", 7701, port, 8 + len(payload) + padding, 0) + payload
    udp += bytes(padding)
    packet = struct.pack(">BBHHHBBHI4s", 0x45, 0, 20 + len(udp), 0, fragment, 64, 17, 0, 0,
                         socket.inet_aton(ip)) + udp
    return bytes.fromhex(to + "525400770001" + tags + "0800") + packet


def vnet(directions, size=20):
    return (struct.pack("<8sIIQ", b"HSVNET01", size, 0, len(directions))
            + b"".join(struct.pack("<IBB14x", 0, 12, way) for way in directions))


def pcap(frames):
    out = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for frame in frames:
        out += struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame
    return out
