# SPDX-License-Identifier: GPL-2.0-or-later
"""Several files delivered to a folder of the user's, all or none: they are made under names ending in
.new, and get their names once all of them are whole and durable.

The folder has .hotsnap-export meanwhile, locked (flock) by its maker: a line of JSON that says of
what the files are, and names them; and a second line once all of them are whole. A process that ends
before that line leaves nothing under a final name, and its files are removed by the next; one that
ends after it has perhaps renamed some, and the next renames the others.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from io import FileIO

from ..errors import HotsnapError
from .atomic import UNFINISHED, sync_file, sync_folder

JOURNAL = ".hotsnap-export"
GRACE = 3.0  # seconds that the programs of a process that was killed may need to end, too
_WHOLE = b"whole\n"


class Delivery:
    """The files of one delivery; `handle` is the lock's, for programs that write to them."""

    def __init__(self, folder: str, of: str, names: Sequence[str], journal: FileIO):
        self.folder, self.of, self.names, self.journal = folder, of, list(names), journal
        self.handle = journal.fileno()

    def unfinished(self, name: str) -> str:
        """Where the file is made."""
        return os.path.join(self.folder, name + UNFINISHED)

    def begin(self) -> None:
        for name in self.names:
            self._refuse(os.path.join(self.folder, name))
        self._write(json.dumps([self.of, self.names]).encode() + b"\n")
        sync_folder(self.folder)

    def publish(self) -> None:
        for name in self.names:
            sync_file(self.unfinished(name))
            self._refuse(os.path.join(self.folder, name))
        sync_folder(self.folder)
        self._write(_WHOLE)
        self.rename()

    def rename(self) -> None:
        for name in self.names:
            with contextlib.suppress(FileNotFoundError):  # it has its name
                os.rename(self.unfinished(name), os.path.join(self.folder, name))
        sync_folder(self.folder)

    def drop(self) -> None:
        for name in self.names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.unfinished(name))

    def _write(self, line: bytes) -> None:
        self.journal.write(line)  # a line cut short is none
        os.fsync(self.handle)

    @staticmethod
    def _refuse(path: str) -> None:
        if os.path.lexists(path):
            raise HotsnapError(f"{path} exists: remove it, or choose another folder")


@contextlib.contextmanager
def delivery(folder: str, of: str, names: Sequence[str]) -> Iterator[Delivery]:
    """For the making of files with these names, which the block publishes; `of` tells their contents
    apart from others. If the block fails nothing is left of them. HotsnapError if one of them exists,
    or if another process delivers to the folder."""
    with _locked(folder) as journal:
        path = os.path.join(folder, JOURNAL)
        _settle(folder, journal)
        delivered = Delivery(folder, of, names, journal)
        try:
            delivered.begin()
            yield delivered
        except BaseException:
            # Once the journal says that all are whole, some may have their names.
            if _WHOLE not in _lines(journal)[1:]:
                delivered.drop()
                os.unlink(path)
            raise
        os.unlink(path)


def settled(folder: str, of: str, names: Sequence[str]) -> bool:
    """Ends what a process has left that was killed. Whether it was about to deliver the same, and all
    of it is there now."""
    if not os.path.exists(os.path.join(folder, JOURNAL)):
        return False
    with _locked(folder) as journal:
        done = _settle(folder, journal)
        os.unlink(os.path.join(folder, JOURNAL))
    return done is not None and (done.of, done.names) == (of, list(names))


def _settle(folder: str, journal: FileIO) -> Delivery | None:
    """Ends the delivery that is noted; returns it if it is whole."""
    lines = _lines(journal)
    try:
        of, names = json.loads(lines[0]) if lines else ("", [])
    except ValueError:  # cut short when nothing was made yet
        of, names = "", []
    left = Delivery(folder, of, names, journal)
    whole = _WHOLE in lines[1:]
    if whole:
        left.rename()
    else:
        left.drop()
    journal.truncate(0)
    return left if whole else None


def _lines(journal: FileIO) -> list[bytes]:
    journal.seek(0)
    return journal.readlines()


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[FileIO]:
    path = os.path.join(folder, JOURNAL)
    deadline = time.monotonic() + GRACE
    while True:
        with FileIO(path, "a+") as journal:
            try:
                fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                raise HotsnapError(f"another process exports to {folder}: wait until it has ended, "
                                   "or choose another folder") from error
            if _is_file(journal.fileno(), path):
                yield journal
                return
        # It was removed since it was opened: the one before has ended.


def _is_file(handle: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
