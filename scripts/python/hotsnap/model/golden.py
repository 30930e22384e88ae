# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that guests read and never write, and how a change of one is noticed."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..formats import sums
from ..host.paths import is_device
from ..record import Record

_HEAD = 4 << 20


@dataclass
class GoldenImage(Record):
    """A golden image, as it was when a layer was made over it; or a disc, at a snapshot."""

    image: str
    size: int
    mtime_ns: int
    # Of a device of the host, whose time says nothing: the checksum of its first 4 MiB. Partition
    # tables are there, and marks that file systems change whenever they are mounted.
    head: str | None = None

    @classmethod
    def of(cls, path: str) -> GoldenImage:
        if is_device(path):
            with open(path, "rb") as stream:
                head = f"{sums.xxh3_64_intdigest(stream.read(_HEAD)):016x}"
                return cls(path, stream.seek(0, os.SEEK_END), 0, head)
        found = os.stat(path)
        return cls(path, found.st_size, found.st_mtime_ns)

    def same(self, other: GoldenImage) -> bool:
        """Whether the content can be the same, wherever it lies."""
        return ((self.size, self.mtime_ns, self.head) == (other.size, other.mtime_ns, other.head))

    def remedy(self) -> str:
        """How to set the time of a file back that has not changed otherwise."""
        seconds, rest = divmod(self.mtime_ns, 10**9)
        return f"'touch -d @{seconds}.{rest:09d}'"

    def describe(self) -> str:
        if self.head:
            return f"{self.size} bytes, with the first 4 MiB that it had"
        return f"{self.size} bytes; if only its time changed, {self.remedy()} sets it back"
