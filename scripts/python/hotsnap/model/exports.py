# SPDX-License-Identifier: GPL-2.0-or-later
"""Exports that are under way, each with a file in exports/ of the cluster's folder: TAG.PID, which
lists the layers that it reads.

The file is locked (flock) for as long as anybody reads them: by the command, and by the programs that
it has started, which inherit the lock. So it holds when the command alone is killed, and is dropped
by the kernel when the last of them ends. Whoever looks or makes an entry has the cluster's lock; so
a layer that was seen to be free stays so until that lock is dropped.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..errors import HotsnapError
from .state import State


class InUse(HotsnapError):
    """A snapshot or its layers are being exported. It may take hours: nobody waits for its end."""


@dataclass(frozen=True)
class Export:
    tag: str
    pid: int
    layers: frozenset[str]  # that are read; all links are resolved


@contextlib.contextmanager
def entered(state: State, tag: str, layers: Iterable[str]) -> Iterator[int]:
    """Enters an export by this process, until the end of the block. The caller holds the cluster's
    lock at its begin. Yields the lock's handle, for the programs that read the layers."""
    os.makedirs(_folder(state), mode=0o700, exist_ok=True)
    path = os.path.join(_folder(state), f"{tag}.{os.getpid()}")
    with open(path, "a", encoding="utf-8", errors="surrogateescape") as entry:
        try:
            fcntl.flock(entry, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:  # a program of a command that had this pid
            raise InUse(f"{path} is locked by an export that lost its command: end that first"
                        ) from error
        entry.truncate(0)
        entry.writelines(f"{layer}\n" for layer in layers)
        entry.flush()
        try:
            yield entry.fileno()
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)


def under_way(state: State) -> list[Export]:
    """All exports that go on; what others have left is removed. The caller holds the cluster's
    lock."""
    found = []
    folder = _folder(state)
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        tag, _, pid = name.rpartition(".")
        if not pid.isdecimal():
            continue
        path = os.path.join(folder, name)
        with contextlib.suppress(FileNotFoundError), \
                open(path, encoding="utf-8", errors="surrogateescape") as entry:
            try:
                fcntl.flock(entry, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(Export(tag, int(pid), frozenset(entry.read().splitlines())))
            else:
                os.unlink(path)
    return found


def layers(state: State) -> set[str]:
    """The layers that exports read: they must be neither changed nor deleted."""
    return {layer for export in under_way(state) for layer in export.layers}


def refuse(state: State, what: str, tag: str | None = None) -> None:
    """InUse if the snapshot `tag`, or any, is being exported; `what` begins the message."""
    for export in under_way(state):
        if tag in (None, export.tag):
            raise InUse(f"{what}: process {export.pid} exports snapshot {export.tag!r}: wait until "
                        "that has ended, or end it")


def _folder(state: State) -> str:
    return os.path.join(state.directory, "exports")
