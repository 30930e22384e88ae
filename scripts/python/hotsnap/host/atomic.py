# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are replaced as a whole: a crash leaves the old one or the new one."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any


def sync_file(path: str) -> None:
    """Makes durable what other programs have written to a file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: str) -> None:
    """Makes renames and removals in a folder durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# Ends the name of a file that is being made; of a disk layer by QEMU, too (parts/overlay.h).
UNFINISHED = ".new"


@contextlib.contextmanager
def whole(path: str) -> Iterator[str]:
    """A name under which a file is made by other programs. It gets the name `path` when it is whole
    and durable: a command that is killed leaves no file of that name that is none."""
    new = path + UNFINISHED
    try:
        yield new
        sync_file(new)
        os.rename(new, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error tells more
            os.unlink(new)
        raise
    sync_folder(os.path.dirname(path))


def write_bytes(path: str, data: bytes, mode: int = 0o644) -> None:
    """Replaces the file `path` by `data`, durably."""
    folder = os.path.dirname(path) or "."
    temporary = os.path.join(folder, f".{os.path.basename(path)}.{os.getpid()}.new")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    sync_folder(folder)


def write_json(path: str, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())
