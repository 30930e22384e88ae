# SPDX-License-Identifier: GPL-2.0-or-later
"""notes.json in a bundle: what the operator's command knows of a snapshot beside its manifest. A
bundle that QMP alone has made has none."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field

from ..host.atomic import write_json
from ..record import Malformed, Record
from .golden import GoldenImage

VERSION = 1

Media = dict[str, GoldenImage | None]  # disk id to what is read there; None: a drive with no disc


@dataclass
class Quiesced(Record):
    """A guest whose file systems were frozen at the cut."""

    filesystems: int
    frozen_ms: float


@dataclass
class Notes(Record):
    version: int = VERSION
    note: str | None = None          # in the user's words
    media: dict[str, Media] = field(default_factory=dict)  # by member
    group: str | None = None         # whose disks they are; None: of the whole cluster
    quiesced: dict[str, Quiesced] = field(default_factory=dict)  # by member


def path(folder: str) -> str:
    return os.path.join(folder, "notes.json")


def read(folder: str) -> Notes:
    """The notes of the bundle in `folder`; Malformed if they are damaged."""
    try:
        with open(path(folder), encoding="utf-8") as stream:
            found = Notes.parse(json.load(stream), path(folder))
    except FileNotFoundError:
        return Notes()
    except (OSError, ValueError) as error:
        raise Malformed(f"{path(folder)} is damaged: {error}; without that file the snapshot is as "
                        "good, but for its note and the discs in its drives") from error
    if found.version != VERSION:
        raise Malformed(f"{path(folder)} has version {found.version}, this program knows {VERSION}: "
                        "use the program that wrote it")
    return found


def write(folder: str, notes: Notes) -> None:
    """Without notes there is no file."""
    if (notes.note is not None or notes.group is not None or any(notes.media.values())
            or notes.quiesced):
        write_json(path(folder), {"version": VERSION, **notes.dump()})
