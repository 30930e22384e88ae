# SPDX-License-Identifier: GPL-2.0-or-later
"""Tagged pages: the counters that the guests' programs keep for the checkers.

The layout is that of tests/guest/src/hs-tag.h, which explains each counter; little endian.
"""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass
from typing import Any

PAGE_SIZE = 4096
MAGIC = b"HOTSNAP-" + b"TAG-PAGE"
VERSION = 1
NAME_SIZE = 32
ENTRY_SIZE = 128
ENTRIES_OFFSET = 128
CHATTER, PG, DISK, WRITER = 1, 2, 3, 4
_HEADER = struct.Struct("<16sII32sQQII")
_NAME = struct.Struct("<32s")


@dataclass
class ChatterCount:
    """The counters of a member's chatter with one peer."""

    peer: str
    peer_nonce: int
    udp_sent: int
    udp_received_max: int
    udp_received: int
    udp_gaps: int
    udp_late: int
    tcp_sent: int
    tcp_received: int
    tcp_errors: int
    tcp_reconnects: int


@dataclass
class PgCount:
    """Rows that a client sent for insertion and that the server acknowledged."""

    server: str
    issued: int
    committed: int
    errors: int


@dataclass
class DiskCount:
    """Blocks that were written to a raw disk region; sizes in bytes."""

    device: str
    issued: int
    completed: int
    blocks: int
    block_size: int


@dataclass
class WriterCount:
    """The work of the load generator."""

    unused: str
    pages: int
    disk: int
    net: int


_ENTRIES: dict[int, tuple[type, int]] = {
    CHATTER: (ChatterCount, 10), PG: (PgCount, 3), DISK: (DiskCount, 4), WRITER: (WriterCount, 3)}
KIND_NAMES = {CHATTER: "chatter", PG: "pg", DISK: "disk", WRITER: "writer"}


@dataclass
class Tag:
    """One tagged page. `nonce` tells incarnations of a program apart."""

    kind: int
    name: str
    nonce: int
    heartbeat: int
    entries: list[Any]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "kind": KIND_NAMES[self.kind]}


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("ascii")


def parse(page: bytes) -> Tag | None:
    """The tag on `page`, or None when the page has no tag of this version."""
    if len(page) < PAGE_SIZE:
        return None
    magic, version, kind, name, nonce, heartbeat, count, size = _HEADER.unpack_from(page)
    if (magic != MAGIC or version != VERSION or kind not in _ENTRIES or size != ENTRY_SIZE or
            not 1 <= count <= (PAGE_SIZE - ENTRIES_OFFSET) // ENTRY_SIZE):
        return None
    entry_type, numbers = _ENTRIES[kind]
    entries = []
    try:
        for index in range(count):
            at = ENTRIES_OFFSET + index * ENTRY_SIZE
            values = struct.unpack_from(f"<{numbers}Q", page, at + NAME_SIZE)
            entries.append(entry_type(_text(_NAME.unpack_from(page, at)[0]), *values))
        return Tag(kind, _text(name), nonce, heartbeat, entries)
    except UnicodeDecodeError:
        return None


def build(tag: Tag) -> bytes:
    """The page that `tag` describes; the inverse of parse(), for tests of the checkers."""
    page = bytearray(PAGE_SIZE)
    _HEADER.pack_into(page, 0, MAGIC, VERSION, tag.kind, tag.name.encode(), tag.nonce,
                      tag.heartbeat, len(tag.entries), ENTRY_SIZE)
    for index, entry in enumerate(tag.entries):
        name, *numbers = vars(entry).values()
        at = ENTRIES_OFFSET + index * ENTRY_SIZE
        _NAME.pack_into(page, at, name.encode())
        struct.pack_into(f"<{len(numbers)}Q", page, at + NAME_SIZE, *numbers)
    return bytes(page)
