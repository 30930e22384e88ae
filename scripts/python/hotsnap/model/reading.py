# SPDX-License-Identifier: GPL-2.0-or-later
"""Frozen layers that a command reads for a long time without the cluster's lock.

A merge changes layers in place: it commits into the lowest, and rewrites names in those above. So
it leaves alone what another command reads meanwhile, and so does a deletion. Such a command has a
file in the folder `reading`, which lists the layers. The file is locked (flock) for as long as
anybody reads them: by the command, and by the programs that it has started, which inherit the lock.
So it holds when the command alone is killed, and the kernel drops it when the last of them ends.

Why no merge can begin in between: layers are listed, changed and looked at under the cluster's lock
only. Whoever plans a merge under that lock sees the lists of all commands; whoever lists layers
under it sees that no merge is under way, and none begins until it gives the lock back. A list may
vanish without the lock, since fewer layers to spare do no harm.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from ..errors import HotsnapError
from ..record import Record
from .state import State


class InUse(HotsnapError):
    """A snapshot or its layers are being read. It may take hours: nobody waits for its end."""


@dataclass(frozen=True)
class Reader(Record):
    """`tag`: the snapshot that must not be removed meanwhile; None: any may be. `layers`: all links
    are resolved."""

    command: str
    pid: int
    tag: str | None
    layers: list[str] = field(default_factory=list)


class Reading:
    """The list of one command; as a context manager, it is gone afterwards."""

    def __init__(self, state: State, command: str, tag: str | None = None):
        os.makedirs(_folder(state), mode=0o700, exist_ok=True)
        handle, self.path = tempfile.mkstemp(".json", f"{command}-", _folder(state))
        self.file = os.fdopen(handle, "w", encoding="utf-8")
        fcntl.flock(self.file, fcntl.LOCK_EX)
        self.command, self.tag = command, tag

    @property
    def handle(self) -> int:
        """Carries the lock, for the programs that read the layers."""
        return self.file.fileno()

    def set(self, layers: Iterable[str]) -> None:
        """Lists these layers and no others. The caller holds the cluster's lock, and no merge waits
        to be finished."""
        self.file.seek(0)
        self.file.truncate()
        json.dump(Reader(self.command, os.getpid(), self.tag, sorted(layers)).dump(), self.file)
        self.file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        self.file.close()


def readers(state: State) -> list[Reader]:
    """The commands that read layers now; what others have left is removed. The caller holds the
    cluster's lock."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(_folder(state))):
            reader = _read(os.path.join(_folder(state), name))
            if reader:
                found.append(reader)
    return found


def _read(path: str) -> Reader | None:
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = stream.read()
            return Reader.parse(json.loads(text), path) if text else None  # it lists nothing yet
        if os.path.getsize(path):  # else a command may just have made it, and not locked it yet
            os.unlink(path)        # its command was killed
    return None


def layers(state: State) -> set[str]:
    """The layers that must be neither changed nor deleted. The caller holds the cluster's lock."""
    return {layer for reader in readers(state) for layer in reader.layers}


def refuse(state: State, what: str, tag: str | None = None) -> None:
    """InUse if the snapshot `tag` must stay, or if there is no tag and anything is being read;
    `what` begins the message. The caller holds the cluster's lock."""
    for reader in readers(state):
        if tag in (None, reader.tag):
            of = f" of snapshot {reader.tag!r}" if reader.tag else ""
            raise InUse(f"{what}: 'hotsnap {reader.command}'{of} is under way, process "
                        f"{reader.pid}: wait until that has ended, or end it")


def _folder(state: State) -> str:
    return os.path.join(state.directory, "reading")
