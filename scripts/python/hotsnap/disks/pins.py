# SPDX-License-Identifier: GPL-2.0-or-later
"""Frozen layers that a command reads for a long time without the cluster's lock.

A merge changes layers in place: it commits into the lowest, and rewrites names in those above. So
it leaves alone what another command reads meanwhile, and so does a deletion. Such a command has a
file in the folder `reading`, which lists the layers, and holds a flock on it; the kernel drops that
when the command ends, however it does.

Why no merge can begin in between: pins are set, changed and looked at under the cluster's lock
only. Whoever plans a merge under that lock sees the pins of all commands; whoever sets pins under
it sees that no merge is under way, and none begins until it gives the lock back. Pins may vanish
without the lock, since fewer pins do no harm.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterable
from typing import Self

from ..model.state import State


def _folder(state: State) -> str:
    return os.path.join(state.directory, "reading")


class Pins:
    """The pins of one command; as a context manager, they are gone afterwards."""

    def __init__(self, state: State):
        os.makedirs(_folder(state), mode=0o700, exist_ok=True)
        handle, self.path = tempfile.mkstemp(".json", "ship-", _folder(state))
        self.file = os.fdopen(handle, "w", encoding="utf-8")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def set(self, layers: Iterable[str]) -> None:
        """Pins these layers, by their paths with links resolved, and no others. The caller holds
        the cluster's lock, and no merge waits to be finished."""
        self.file.seek(0)
        self.file.truncate()
        json.dump(sorted(layers), self.file)
        self.file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self.file.close()


def pinned(state: State) -> set[str]:
    """The layers that any command reads now. The caller holds the cluster's lock."""
    found: set[str] = set()
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(_folder(state)):
            found.update(_read(os.path.join(_folder(state), name)))
    return found


def _read(path: str) -> list[str]:
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return json.loads(stream.read() or "[]")
        if os.path.getsize(path):  # else a command may just have made it, and not locked it yet
            os.unlink(path)        # its command was killed
    return []
