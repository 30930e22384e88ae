# SPDX-License-Identifier: GPL-2.0-or-later
"""The disks of a bundle, as something that other programs can read: which there are, whether their
layers are as they were, and a copy of one that lies over nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import UsageError
from ..formats import qcow2
from ..model import bundle
from ..model.bundle import Bundle, SavedDisk
from ..model.disk_table import id_of
from ..model.state import State
from . import layers
from .survey import folders

_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")  # in the name of a file


@dataclass(frozen=True)
class FrozenDisk:
    """A disk of a bundle; `chain` is its frozen layer and all below that is qcow2."""

    member: str
    disk: str
    file: str
    format: str
    chain: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.member}:{self.disk}"

    def file_name(self, image_format: str) -> str:
        return f"{self.member}-{self.disk}.{image_format}"


@dataclass(frozen=True)
class Sums:
    """Checksums of layers: (file, its sums file, the XXH3-64 of that one); and the layers that have
    none, since no bundle names them any more."""

    known: tuple[tuple[str, str, str], ...]
    unknown: tuple[str, ...]


def chosen(state: State, saved: Bundle, entries: Sequence[str]) -> list[FrozenDisk]:
    """The disks that entries name, each MEMBER or MEMBER:DISK, or all. DISK is an id, or a serial of
    the cluster file. HotsnapError if a layer is missing, or a golden image below was changed."""
    all_disks = list(saved.layers())
    wanted = [(member.name, disk) for member, disk in all_disks if not entries]
    for entry in entries:
        name, colon, disk_name = entry.partition(":")
        found = [(member.name, disk) for member, disk in all_disks if member.name == name
                 and (not colon or disk_name in _names(state, member.name, disk))]
        if not found:
            there = ", ".join(f"{member.name}:{_id(disk)}" for member, disk in all_disks)
            raise UsageError(f"snapshot {saved.tag!r} has no disk {entry!r}: it has "
                             f"{there or 'none'}; discs and read-only disks are not saved, since "
                             "their files stay as they are")
        wanted += found
    result = {}
    for member_name, disk in wanted:
        state.check_images([disk.file] if disk.format == "qcow2" else [])
        file = os.path.realpath(disk.file)
        chain = tuple(qcow2.chain(file)) if disk.format == "qcow2" else (file,)
        result[member_name, disk.device] = FrozenDisk(member_name, _id(disk), file, disk.format,
                                                      chain)
    return list(result.values())


def _id(disk: SavedDisk) -> str:
    """A disk that 'up' has not made is called as its device is."""
    return id_of(disk.device) or _UNFIT.sub("_", disk.device.strip("/"))


def _names(state: State, member: str, disk: SavedDisk) -> set[str]:
    own = _id(disk)
    serials = {described.serial for each in state.cluster.members if each.name == member
               for described in each.disks if described.id == own and described.serial}
    return {own, *serials}


def sums_of(state: State, saved: Bundle, disks: Iterable[FrozenDisk]) -> Sums:
    """The checksums of all layers of these disks. The layers below those of a bundle are other
    bundles' frozen layers. Golden images have none; their size and time were compared."""
    named = bundle.by_layer((saved, *bundle.survey(state.bundles)[0]))
    used = dict.fromkeys(path for disk in disks for path in disk.chain)
    own = layers.scan(folders(state))
    known = ((path, *named[path]) for path in used if path in named)
    return Sums(tuple((path, owner.file(disk.sums), disk.sums_xxh3) for path, owner, disk in known),
                tuple(path for path in used if path not in named and path in own))
