# SPDX-License-Identifier: GPL-2.0-or-later
"""every.json: what is known of a cluster's series of snapshots between runs of 'hotsnap every'.

It is written before a snapshot or a removal begins and after it has ended, so that a command that
is killed leaves behind what it was about to do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..errors import HotsnapError
from ..host.atomic import write_json
from ..host.process import Identity, alive
from ..record import Record
from .bundle import Bundle
from .series import utc

VERSION = 1


@dataclass
class Made(Record):
    """A snapshot of the series. `created` and `epoch` are its manifest's: one that somebody else
    has put in its place is another snapshot."""

    tag: str
    slot: int
    created: str
    epoch: int
    instant: float | None = None  # of its cut, in seconds since 1970

    def is_that(self, found: Bundle) -> bool:
        return (found.manifest.created, found.manifest.epoch) == (self.created, self.epoch)


@dataclass
class Pending(Record):
    """A snapshot that is about to be taken, or is under way."""

    tag: str
    slot: int
    initiator: str
    missed: bool = False  # it was counted as missed, but may yet complete


@dataclass
class Told(Record):
    """Something that happened, and when, in seconds since 1970."""

    time: float
    text: str


@dataclass
class SeriesState(Record):
    """every.json. `settled` is the last slot that was taken or missed, see series.Schedule."""

    version: int
    period: int
    prefix: str
    keep: dict[str, int] = field(default_factory=dict)
    group: str | None = None  # whose disks the snapshots are of; None: of the whole cluster
    process: Identity | None = None  # that runs the series, or was killed
    settled: int | None = None
    taken: int = 0
    missed: int = 0
    failed_in_a_row: int = 0
    pruned: int = 0
    last_success: Made | None = None
    last_error: Told | None = None
    pending: Pending | None = None
    removing: str | None = None  # a tag
    made: list[Made] = field(default_factory=list)  # in the order in which they were taken

    def forget(self, tags: Iterable[str]) -> None:
        gone = set(tags)
        self.made = [entry for entry in self.made if entry.tag not in gone]

    def running(self) -> bool:
        return alive(self.process)

    def newest(self) -> Made | None:
        """Of those that are there."""
        return next((entry for entry in reversed(self.made) if entry.tag != self.removing), None)

    def status(self, now: float) -> dict[str, Any]:
        """What --status prints. The age of the newest snapshot is the time for which all that was
        done since its cut would be lost."""
        newest = self.newest()
        success, error = self.last_success, self.last_error
        running = self.running()
        due = self.settled + self.period if running and self.settled is not None else None
        pending = self.pending.tag if self.pending else None
        return {"running": running, "pid": self.process.pid if running and self.process else None,
                "period_s": self.period, "prefix": self.prefix, "keep": self.keep,
                "group": self.group, "newest": newest and newest.tag,
                "age_s": None if newest is None or newest.instant is None
                         else round(max(now - newest.instant, 0.0), 3),
                "taken": self.taken, "missed": self.missed,
                "failed_in_a_row": self.failed_in_a_row, "pruned": self.pruned,
                "last_success": success and {"time": success.created, "tag": success.tag},
                "last_error": error and {"time": utc(error.time), "text": error.text},
                "next_due": None if due is None else utc(due),
                "under_way": pending if running else None,
                "left_behind": None if running else pending,
                "being_removed": self.removing,
                "snapshots": [entry.tag for entry in self.made if entry.tag != self.removing]}


def read(path: str) -> SeriesState | None:
    """None if there never was a series."""
    try:
        with open(path, encoding="utf-8") as stream:
            kept = json.load(stream)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise HotsnapError(f"cannot read {path}: {error}: move it away; the snapshots that it "
                           "names are then kept until 'hotsnap rm'") from error
    found = SeriesState.parse(kept, path)
    if found.version != VERSION:
        raise HotsnapError(f"{path} has version {found.version}, this program knows {VERSION}: "
                           "use the program that wrote it")
    return found


def write(path: str, state: SeriesState) -> None:
    write_json(path, state.dump())
