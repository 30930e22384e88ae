# SPDX-License-Identifier: GPL-2.0-or-later
"""Checksums of large files: the format of docs/formats/sums.md, read, written and compared.

A sums file is a header of 64 bytes and one XXH3-64 for each unit of the file; a unit that is all
zero is recorded as 0, so that holes cost nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import HotsnapError
from ..host.atomic import write_bytes


class MissingPackage(HotsnapError):
    """This machine cannot compute checksums; nothing is known of any file."""


def _library() -> Callable[[bytes], int]:
    """XXH3-64 out of libxxhash, which QEMU needs as well, so that it is on every host."""
    library = ctypes.CDLL("libxxhash.so.0")
    function = library.XXH3_64bits
    function.argtypes, function.restype = (ctypes.c_char_p, ctypes.c_size_t), ctypes.c_uint64
    return lambda data: function(data, len(data))


def _missing(_: bytes) -> int:
    raise MissingPackage("checksums need xxHash: run 'apt-get install libxxhash0' (or "
                         "python3-xxhash)")


def _choose() -> Callable[[bytes], int]:
    """The Python module if it is there, else the library; else only a checksum fails."""
    try:
        from xxhash import xxh3_64_intdigest as found  # pylint: disable=import-outside-toplevel
        return found
    except ImportError:
        pass
    try:
        return _library()
    except (OSError, AttributeError):  # no such library, or one older than XXH3
        return _missing


xxh3_64_intdigest = _choose()

MAGIC = b"HSSUMS1\0"
HEADER = struct.Struct("<8sIIQQ")
HEADER_SIZE = 64
VERSION = 1
UNIT = 1 << 20
MAX_UNIT = 1 << 30


class SumsError(HotsnapError):
    """A sums file that is truncated or altered."""


@dataclass(frozen=True)
class Sums:
    unit: int
    size: int
    sums: tuple[int, ...]

    def encode(self) -> bytes:
        head = HEADER.pack(MAGIC, VERSION, self.unit, self.size, len(self.sums))
        return head.ljust(HEADER_SIZE, b"\0") + struct.pack(f"<{len(self.sums)}Q", *self.sums)


def read(path: str, expected: str | None = None) -> Sums:
    """Read a sums file; `expected` is its own XXH3-64 in hex, from the manifest."""
    try:
        with open(path, "rb") as stream:
            data = stream.read()
    except OSError as error:
        raise SumsError(f"{path}: cannot be read: {error.strerror}") from error
    if expected is not None and not same(expected, xxh3_64_intdigest(data)):
        raise SumsError(f"{path}: its checksum is not the one in the manifest: it was altered")
    if len(data) < HEADER_SIZE:
        raise SumsError(f"{path}: truncated: {len(data)} bytes, the header alone has {HEADER_SIZE}")
    magic, version, unit, size, count = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise SumsError(f"{path}: not a sums file")
    if version != VERSION:
        raise SumsError(f"{path}: version {version}; this program reads version {VERSION}")
    if not 0 < unit <= MAX_UNIT or count != -(-size // unit):
        raise SumsError(f"{path}: its header contradicts itself: the file was altered")
    if len(data) != HEADER_SIZE + 8 * count:
        raise SumsError(f"{path}: has {len(data)} bytes instead of {HEADER_SIZE + 8 * count}")
    return Sums(unit, size, struct.unpack_from(f"<{count}Q", data, HEADER_SIZE))


def same(text: str, value: int) -> bool:
    """Whether a checksum in hex, however it is padded, is this number."""
    try:
        return int(text, 16) == value
    except ValueError:
        return False


def file_xxh3(path: str) -> int:
    """The checksum of a small file as a whole."""
    with open(path, "rb") as stream:
        return xxh3_64_intdigest(stream.read())


def file_size(path: str) -> int:
    """The size of a file, or of a device, whose st_size is 0."""
    with open(path, "rb", buffering=0) as stream:
        return stream.seek(0, os.SEEK_END)


def unit_sums(path: str, unit: int, first: int, count: int) -> Iterator[int]:
    """Sums of `count` units from unit number `first`; holes are not read. A unit that lies wholly
    past the end of the file yields 0."""
    zeros = bytes(unit)
    with open(path, "rb", buffering=0) as stream:
        handle = stream.fileno()
        size = stream.seek(0, os.SEEK_END)
        data_begin = data_end = -1  # the last stretch of data that was looked up
        for number in range(first, first + count):
            begin, end = number * unit, min((number + 1) * unit, size)
            if begin >= end:
                yield 0
                continue
            if begin >= data_end:
                try:
                    data_begin = os.lseek(handle, begin, os.SEEK_DATA)
                    data_end = os.lseek(handle, data_begin, os.SEEK_HOLE)
                except OSError as error:
                    if error.errno not in (errno.ENXIO, errno.EINVAL):
                        raise
                    # Up to the end there is only a hole; or this is a device, which has no holes.
                    data_begin = begin if error.errno == errno.EINVAL else size
                    data_end = size
            if data_begin >= end:
                yield 0
                continue
            block = os.pread(handle, end - begin, begin)
            while len(block) < end - begin:
                more = os.pread(handle, end - begin - len(block), begin + len(block))
                if not more:
                    break
                block += more
            yield 0 if block == zeros[:len(block)] else xxh3_64_intdigest(block)


def write(path: str, sums_path: str, unit: int = UNIT,
          progress: Callable[[int], None] | None = None) -> int:
    """Write the sums of a file, durably; returns the XXH3-64 of the sums file."""
    size = file_size(path)
    found = []
    for value in unit_sums(path, unit, 0, -(-size // unit)):
        found.append(value)
        if progress is not None:
            progress(unit)
    return _store(Sums(unit, size, tuple(found)), sums_path)


def refresh(path: str, old: Sums, sums_path: str, length: int) -> int:
    """Like write, for a file of which only the first `length` bytes changed: the other sums are
    kept as they were, so that damage elsewhere stays visible."""
    count = min(len(old.sums), -(-length // old.unit))
    head = tuple(unit_sums(path, old.unit, 0, count))
    return _store(Sums(old.unit, old.size, head + old.sums[count:]), sums_path)


def _store(sums: Sums, sums_path: str) -> int:
    data = sums.encode()
    write_bytes(sums_path, data)
    return xxh3_64_intdigest(data)
