# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON files of a store (docs/formats/store.md): store.json says whose it is, and each file of
snapshots/ stands for one whole snapshot."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TypeVar

from ..errors import HotsnapError
from ..host.atomic import write_json
from ..model.bundle import Bundle
from ..model.golden import GoldenImage
from ..record import Malformed, Record

VERSION = 1
STORE, SNAPSHOT = "hotsnap-store", "hotsnap-shipped"  # values of "format"


class StoreError(HotsnapError):
    """A store that cannot be used, or a file of it that is damaged; the text names it."""


@dataclass
class Identity(Record):
    """Which snapshot it is. A tag may be used again; two copies of a cluster's folder, each with
    its own series, take snapshots of equal tags and epochs in the same second."""

    tag: str
    created: str
    epoch: int
    cut_ns: int  # when the first member began its cut, CLOCK_MONOTONIC

    @classmethod
    def of(cls, found: Bundle) -> Identity:
        return cls(found.tag, found.manifest.created, found.manifest.epoch,
                   min((member.cut.begin_ns for member in found.members), default=0))


@dataclass
class Description(Record):
    """store.json."""

    format: str
    version: int
    source: str   # id of the cluster's folder, see model/source.py
    cluster: str
    group: str
    golden: dict[str, GoldenImage] = field(default_factory=dict)  # by file in golden/
    dropped: list[Identity] = field(default_factory=list)  # by --keep, and still at the source


@dataclass
class ShippedDisk(Record):
    member: str
    disk: str
    device: str
    file: str  # in layers/: the disk's content is that of this file and the files under it
    size: int  # of the disk, in bytes


@dataclass
class Shipped(Record):
    """snapshots/TAG.json. The file has the bundle's manifest too, as `manifest`."""

    format: str
    version: int
    tag: str
    created: str
    epoch: int
    cut_ns: int
    disks: list[ShippedDisk]
    shipped: float  # when it was whole in the store, in seconds since 1970
    sent: int       # bytes that were written for it
    instant: float | None = None  # of the cut, in seconds since 1970
    note: str | None = None

    def identity(self) -> Identity:
        return Identity(self.tag, self.created, self.epoch, self.cut_ns)

    def order(self) -> tuple[float, str, int]:
        return self.instant or 0.0, self.created, self.epoch

    def age(self, now: float) -> float | None:
        """All that was done in so many seconds would be lost."""
        return None if self.instant is None else max(now - self.instant, 0.0)


Kind = TypeVar("Kind", Description, Shipped)


def read(path: str, kind: type[Kind]) -> Kind:
    """FileNotFoundError if there is no such file; StoreError if it is damaged."""
    wanted = STORE if kind is Description else SNAPSHOT
    try:
        with open(path, encoding="utf-8") as stream:
            found = kind.parse(json.load(stream), path)
    except ValueError as error:
        raise StoreError(f"{path} is damaged: {error}") from error
    except Malformed as error:
        raise StoreError(str(error)) from error
    if found.format != wanted:
        raise StoreError(f"{path} is damaged: it does not say \"format\": \"{wanted}\"")
    if found.version != VERSION:
        raise StoreError(f"{path} has version {found.version}, this program knows {VERSION}: use "
                         "the program that wrote it")
    return found


def write(path: str, record: Description | Shipped) -> None:
    """Durable, and replaced as a whole."""
    write_json(path, record.dump())
