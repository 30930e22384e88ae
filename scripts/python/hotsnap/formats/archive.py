# SPDX-License-Identifier: GPL-2.0-or-later
"""The head of a snapshot's archive, and the names in it (docs/formats/archive.md)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Self

from ..errors import HotsnapError
from ..record import Record

FORMAT, VERSION = "hotsnap-archive", 1
HEAD, CLUSTER_FILE, STATE = "hotsnap-archive.json", "cluster.toml", "state.json"
MAX_HEAD = 16 << 20

_WORD = r"[A-Za-z0-9_][A-Za-z0-9._+-]*"
_NAME = re.compile(rf"{CLUSTER_FILE}|{STATE}|(?P<bundle>bundles/{_WORD}/)(?:{_WORD}/)*{_WORD}"
                   rf"|members/(?P<member>{_WORD})/{_WORD}\.qcow2|images/{_WORD}")


@dataclass
class Entry(Record):
    name: str
    size: int
    allocated: int  # bytes of the file system, where it was


@dataclass
class Image(Record):
    """A golden image, a disc or a kernel: its name in the archive, and its path where it was."""

    name: str
    path: str


@dataclass
class Head(Record):
    """`left` are the paths of files that the machines need and the archive has not."""

    format: str
    version: int
    tag: str
    cluster: str
    members: list[str]
    files: list[Entry]
    images: list[Image] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, data: bytes, where: str) -> Self:
        try:
            value = json.loads(data)
        except ValueError as error:
            raise HotsnapError(f"{where}: {HEAD} is damaged: {error}") from error
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise HotsnapError(f"{where} is no archive of a snapshot: its {HEAD} does not say "
                               f'"format": "{FORMAT}"')
        if value.get("version") != VERSION:
            raise HotsnapError(f"{where} has version {value.get('version')}, this program reads "
                               f"{VERSION}: use the one that wrote it")
        found = cls.parse(value, f"{where}: {HEAD}")
        for entry in found.files:
            match = _NAME.fullmatch(entry.name)
            if (not match or match["bundle"] not in (None, f"bundles/{found.tag}/")
                    or match["member"] not in (None, *found.members)
                    or entry.size < 0 or entry.allocated < 0):
                raise HotsnapError(f"{where}: {HEAD} names {entry.name!r}, which is no part of a "
                                   "cluster's folder")
        names = [entry.name for entry in found.files]
        for needed in (CLUSTER_FILE, STATE, f"bundles/{found.tag}/manifest.json"):
            if needed not in names:
                raise HotsnapError(f"{where}: {HEAD} does not name {needed}")
        unknown = {image.name for image in found.images} - set(names)
        if unknown:
            raise HotsnapError(f"{where}: {HEAD} does not list {unknown.pop()}")
        if len(set(names)) < len(names):
            raise HotsnapError(f"{where}: {HEAD} names a file twice")
        return found

    def sizes(self) -> dict[str, int]:
        return {entry.name: entry.size for entry in self.files}

    def allocated(self) -> int:
        return sum(min(entry.allocated, entry.size) for entry in self.files)
