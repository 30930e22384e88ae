# SPDX-License-Identifier: GPL-2.0-or-later
"""The working set of a memory image (docs/formats/access.md): a hint, of which only sizes are read
here."""

from __future__ import annotations

import os
import struct

PAGE = 4096
MAGIC = b"HSACCESS"
HEAD, ENTRY, RUN = struct.Struct("<8sIIQQQ24s"), struct.Struct("<IIQ"), struct.Struct("<QQ")
MOST_BUCKETS, MOST_RUNS = 32, 1 << 20
FIRST_MS = 50  # end of the first bucket's time


def buckets(path: str) -> list[tuple[float, int]]:
    """Of each bucket, when its time begins, in seconds after the cut, and its pages. Empty if there
    is no file that is of use."""
    try:
        with open(path, "rb") as stream:
            magic, version, count, runs, *_ = HEAD.unpack(stream.read(HEAD.size))
            if magic != MAGIC or version != 1 or count > MOST_BUCKETS or runs > MOST_RUNS:
                return []
            if os.fstat(stream.fileno()).st_size != HEAD.size + count * ENTRY.size + runs * RUN.size:
                return []
            entries = list(ENTRY.iter_unpack(stream.read(count * ENTRY.size)))
            lengths = [length for _, length in RUN.iter_unpack(stream.read(runs * RUN.size))]
    except (OSError, struct.error):
        return []
    if sum(number for _, _, number in entries) != runs or sum(lengths) > MOST_RUNS:
        return []
    found, at = [], 0
    for end_ms, _, number in entries:
        begin_ms = 0 if end_ms <= FIRST_MS else end_ms / 2
        found.append((begin_ms / 1000, sum(lengths[at:at + number])))
        at += number
    return found


def window(path: str, bytes_per_second: float) -> int | None:
    """Bytes to load before the guest starts, so that loading the others at this rate stays ahead of
    it; None if there is no working set."""
    needed, pages = 0.0, 0
    for begin, count in buckets(path):
        pages += count
        needed = max(needed, pages * PAGE - bytes_per_second * begin)
    return int(needed) if pages else None
