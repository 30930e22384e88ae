# SPDX-License-Identifier: GPL-2.0-or-later
"""The space that files take, which of sparse files is less than their size."""

from __future__ import annotations

import contextlib
import os


def allocated(path: str) -> int:
    """Bytes of the file system; of a link those of the link."""
    return os.lstat(path).st_blocks * 512


def allocated_below(folder: str) -> int:
    """The same of all files in a folder and in those below; a file may go meanwhile."""
    total = 0
    for above, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += allocated(os.path.join(above, name))
    return total


def free(folder: str) -> int:
    """Bytes of the file system that this user may still write."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
