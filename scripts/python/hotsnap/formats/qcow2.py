# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads headers of qcow2 files. qemu-img would refuse files that a running QEMU has open."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Container, Iterator
from typing import BinaryIO

from ..errors import HotsnapError
from ..host.paths import resolved

_HEADER = struct.Struct(">4sIQIIQ")  # magic, version, backing offset and size, cluster bits, size
_L1, _L1_AT = struct.Struct(">IQ"), 36  # number of entries, and where they are
_MAGIC = b"QFI\xfb"
_FEATURES, _FEATURES_AT, _EXTERNAL_DATA = struct.Struct(">Q"), 72, 1 << 2  # incompatible ones
_LENGTH_AT, _BACKING_FORMAT, _DATA_FILE = 100, 0xe2792aca, 0x44415441  # types of extensions
_MOST_EXTENSIONS = 64


def backing_file(path: str) -> str | None:
    """The file that a qcow2 file lies over, its path resolved; None if there is none."""
    with open(path, "rb") as stream:
        head = stream.read(_HEADER.size)
        if len(head) < _HEADER.size or head[:4] != _MAGIC:
            raise HotsnapError(f"{path} is not a qcow2 file: the disk layer is damaged")
        _, _, offset, size, _, _ = _HEADER.unpack(head)
        if not offset:
            return None
        stream.seek(offset)
        name = stream.read(size).decode(errors="surrogateescape")
    if name.startswith("json:"):
        options = json.loads(name[5:])
        name = options.get("file", {}).get("filename") or options.get("file.filename") or ""
    name = name.removeprefix("file:").removeprefix("host_device:")
    return resolved(os.path.join(os.path.dirname(path), name))


def strange(path: str, versions: Container[int] = (3,)) -> str:
    """What a header has that no layer of this program has, and that could make QEMU open other
    files; empty if there is nothing. `path` is a qcow2 file that a stranger may have made."""
    with open(path, "rb") as stream:
        head = stream.read(_FEATURES.size + _FEATURES_AT)
        if len(head) < _HEADER.size or head[:4] != _MAGIC:
            return "it is not a qcow2 file"
        _, version, offset, size, _, _ = _HEADER.unpack(head[:_HEADER.size])
        if version not in versions:
            return f"its header has version {version}"
        features, = _FEATURES.unpack(head[_FEATURES_AT:].ljust(_FEATURES.size, b"\0"))
        kinds = [kind for kind, _ in _extensions(stream)] if version > 2 else []
        if (version > 2 and features & _EXTERNAL_DATA) or _DATA_FILE in kinds:
            return "its data are in another file"
        if kinds.count(_BACKING_FORMAT) > 1:
            return "it has two formats of the file below"
        stream.seek(offset)
        name = stream.read(min(size, 4096)) if offset else b"/"
    good = name.startswith(b"/") and b"\0" not in name
    return "" if good else f"it lies over {name.decode(errors='replace')!r}"


def _extensions(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Type and data of each extension of a header."""
    stream.seek(_LENGTH_AT)
    position = struct.unpack(">I", stream.read(4).ljust(4, b"\0"))[0]
    stream.seek(position)
    for _ in range(_MOST_EXTENSIONS):
        found = stream.read(8)
        if len(found) < 8:
            return
        kind, length = struct.unpack(">II", found)
        if not kind:
            return
        yield kind, stream.read(min(length + -length % 8, 65536))[:length]


def backing_format(path: str) -> str:
    """The format of the file below, from the header's extensions; "raw" if the header has none."""
    with open(path, "rb") as stream:
        return next((data.decode() for kind, data in _extensions(stream)
                     if kind == _BACKING_FORMAT), "raw")


def written(path: str) -> bool:
    """Whether anything was ever written to a layer: its L1 table then has an entry. A new file that
    a power failure has cut short has none."""
    with open(path, "rb") as stream:
        if len(stream.read(_HEADER.size)) < _HEADER.size:
            return False
        stream.seek(_L1_AT)
        size, offset = _L1.unpack(stream.read(_L1.size).ljust(_L1.size, b"\0"))
        stream.seek(offset)
        return any(stream.read(size * 8))


def virtual_size(path: str) -> int:
    """The size of the disk, in bytes."""
    with open(path, "rb") as stream:
        return _HEADER.unpack(stream.read(_HEADER.size))[5]


def cluster_size(path: str) -> int:
    with open(path, "rb") as stream:
        return 1 << _HEADER.unpack(stream.read(_HEADER.size))[4]


def chain(path: str) -> list[str]:
    """A layer and all the layers below it, topmost first; ends before what is not qcow2."""
    found: list[str] = []
    lower: str | None = resolved(path)
    while lower and lower not in found:
        found.append(lower)
        if not os.path.exists(lower):
            raise HotsnapError(f"disk layer {lower} is missing: nothing over it can be used")
        try:
            lower = backing_file(lower)
        except HotsnapError:
            if len(found) == 1:
                raise
            return found[:-1]  # a raw golden image
    return found
