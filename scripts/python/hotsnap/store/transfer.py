# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies a file and proves the copy: it is read back and compared with the checksums that the
source had when the snapshot was taken."""

from __future__ import annotations

import errno
import os

from ..formats import sums
from ..formats.sums import Sums
from .ledger import StoreError
from .target import Layer, SourceDamaged, Tell

CHUNK = 4 << 20


def copy(layer: Layer, path: str, tell: Tell) -> Sums:
    """Copies a layer byte for byte, holes as holes, durably; returns its checksums. SourceDamaged
    if the layer has others than it should, StoreError if the copy has."""
    with open(layer.path, "rb", buffering=0) as source:
        size = source.seek(0, os.SEEK_END)
        if layer.sums and size != layer.sums.size:
            raise SourceDamaged(f"disk layer {layer.path} is damaged: it has {size} bytes instead "
                                f"of {layer.sums.size}")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb",
                  buffering=0) as made:
            made.truncate(size)
            _copy_data(layer.path, source.fileno(), made.fileno(), size, tell)
            os.fsync(made.fileno())
            # So that the copy is read back from where it lies, as far as the system does so.
            os.posix_fadvise(made.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    known = layer.sums or measure(layer.path)
    at = difference(path, known)
    if at is not None:
        check(layer)
        raise StoreError(f"{path} was written, and reads otherwise at offset {at:#x}: the "
                         "storage below it is faulty")
    return known


def check(layer: Layer) -> None:
    """SourceDamaged if a layer is not what its checksums say, if it has some."""
    try:
        at = difference(layer.path, layer.sums) if layer.sums else None
    except OSError as error:
        raise SourceDamaged(f"disk layer {layer.path} cannot be read: {error.strerror}") from error
    if at is not None:
        raise SourceDamaged(f"disk layer {layer.path} is damaged at offset {at:#x}: 'hotsnap "
                            "verify' tells which snapshots need it")


def _copy_data(name: str, source: int, made: int, size: int, tell: Tell) -> None:
    end = 0
    while end < size:
        try:
            begin = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a hole up to the end
            raise
        end = os.lseek(source, begin, os.SEEK_HOLE)
        while begin < end:
            try:
                block = os.pread(source, min(CHUNK, end - begin), begin)
            except OSError as error:
                raise SourceDamaged(f"disk layer {name} cannot be read at offset {begin:#x}: "
                                    f"{error.strerror}") from error
            if not block:
                raise SourceDamaged(f"disk layer {name} became shorter while it was read")
            written = 0
            while written < len(block):
                written += os.pwrite(made, block[written:], begin + written)
            begin += len(block)
            tell(len(block))


def measure(path: str) -> Sums:
    size = sums.file_size(path)
    return Sums(sums.UNIT, size,
                tuple(sums.unit_sums(path, sums.UNIT, 0, -(-size // sums.UNIT))))


def difference(path: str, known: Sums) -> int | None:
    """The offset of the first unit that has another checksum, or of the end if the sizes differ."""
    size = sums.file_size(path)
    if size != known.size:
        return min(size, known.size)
    for number, value in enumerate(sums.unit_sums(path, known.unit, 0, len(known.sums))):
        if value != known.sums[number]:
            return number * known.unit
    return None
