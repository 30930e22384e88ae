# SPDX-License-Identifier: GPL-2.0-or-later
"""Which format a disk image has: its content tells, since names are often wrong."""

from __future__ import annotations

import os
import struct

from ..errors import HotsnapError
from ..host.paths import is_device
from . import qcow2

# QEMU's names of the formats that a golden image may have.
FORMATS = ("qcow2", "raw", "vmdk", "vdi", "vhdx", "vpc", "qed")
# QEMU saves no VM that has a file of these open. So the first layer of a disk is a copy of the
# image, and not an overlay.
COPIED = ("vmdk", "vdi", "vhdx", "vpc")

_HEAD = 512  # bytes that are looked at
_FOOTER = 512  # of a VHD of fixed size, which has no header
_DESCRIPTOR = b"# Disk DescriptorFile"
_MARKS = (
    (0, b"QFI\xfb\0\0\0\1", "qcow"),
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, _DESCRIPTOR, "vmdk"),
    (64, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vpc"),
    (0, b"QED\0", "qed"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"\x1f\x8b\x08", "gzip"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"BZh", "bzip2"),
    (0, b"PK\x03\x04", "zip"),
)
_QCOW2_CRYPT = slice(32, 36)
_PACKED = {"gzip", "xz", "zstd", "bzip2", "zip"}


def probe(path: str) -> str:
    """QEMU's name of the image's format; of a file that is no disk image as it stands, the name of
    what it is. "raw" if nothing is recognized. HotsnapError if it cannot be read."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(_HEAD)
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _FOOTER))
            footer = stream.read(8)
    except OSError as error:
        raise HotsnapError(f"{path} cannot be read: {error.strerror}") from error
    for offset, mark, name in _MARKS:
        if head.startswith(mark, offset):
            encrypted = name == "qcow2" and any(head[_QCOW2_CRYPT])
            return "encrypted qcow2" if encrypted else name
    return "vpc" if footer == b"conectix" else "raw"


def choose(path: str, given: str | None) -> str:
    """The format to read an image as: the one that was `given` if it can be right, else the one
    that is found. HotsnapError says what the image is, and what to do."""
    found = probe(path)
    if found in FORMATS:
        if given not in (None, found):
            raise HotsnapError(f"{path} is {found}, not {given}: write format = \"{found}\", or "
                               "leave the key out")
        return found
    if given == "raw" and not found.startswith(("qcow", "encrypted")):
        return given  # the guest knows what to do with it
    if found in _PACKED:
        raise HotsnapError(f"{path} is packed with {found}: unpack it first; or write format = "
                           "\"raw\" if the guest is to see it as it is")
    if found == "LUKS":
        raise HotsnapError(f"{path} is encrypted with LUKS: write format = \"raw\" if the guest is "
                           "to unlock it; else decrypt it with 'qemu-img convert'")
    raise HotsnapError(f"{path} is {found}, which a golden image cannot be: convert it with "
                       "'qemu-img convert -O qcow2'")


def in_several_files(path: str) -> str:
    """Why a copy of this file is no copy of the whole image; empty if it is one."""
    if is_device(path):
        return "it is a device of this host"
    found = probe(path)
    if found == "qcow2":
        return qcow2.strange(path, (2, 3)) or ("it lies over another file"
                                               if qcow2.backing_file(path) else "")
    with open(path, "rb") as stream:
        head = stream.read(_HEAD).ljust(_HEAD, b"\0")
        if head.startswith(_DESCRIPTOR):
            return "it describes an image that other files hold"
        if found == "qcow":  # QEMU reads it, and it is not among the formats that are taken
            return "it is qcow, the first version"
        if found == "qed" and struct.unpack_from("<Q", head, 16)[0] & 1:
            return "it lies over another file"
        if head.startswith(b"KDMV"):
            capacity, = struct.unpack_from("<Q", head, 12)
            at, size = struct.unpack_from("<QQ", head, 28)
            stream.seek(min(at, 1 << 31) * 512)
            if not capacity or b"parentFileNameHint" in stream.read(min(size, 2048) * 512):
                return "other files hold a part of it"
    return ""
