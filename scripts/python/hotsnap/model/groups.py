# SPDX-License-Identifier: GPL-2.0-or-later
"""Consistency groups: names for sets of disks of any members, in groups.json of the cluster's
folder. QEMU knows nothing of them; they can be changed at any time, and a disk may be in several.

An entry is MEMBER, for all disks of a member that it can write to, or MEMBER:DISK, or a selector,
LABEL=VALUE[,LABEL=VALUE], for all disks with these labels in the cluster file of then. DISK is the
disk's id (disk0 is the first one in the cluster file) or its serial.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field

from ..errors import HotsnapError, UsageError
from ..host.atomic import write_json
from ..record import Record
from .cluster import Cluster, Member
from .disk_table import Disk
from .state import State
from .tables import NAME

VERSION = 1


@dataclass
class _File(Record):
    version: int
    groups: dict[str, list[str]] = field(default_factory=dict)


def path(state: State) -> str:
    return os.path.join(state.directory, "groups.json")


def load(state: State) -> dict[str, list[str]]:
    """Name to entries."""
    try:
        with open(path(state), encoding="utf-8") as stream:
            file = _File.parse(json.load(stream), path(state))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise HotsnapError(f"cannot read {path(state)}: {error}") from error
    if file.version != VERSION:
        raise HotsnapError(f"{path(state)} has version {file.version}, this program knows "
                           f"{VERSION}: use the program that wrote it")
    return file.groups


def _save(state: State, groups: dict[str, list[str]]) -> None:
    write_json(path(state), _File(VERSION, groups).dump())


def add(state: State, name: str, entries: list[str]) -> list[str]:
    """Makes the group, or adds to it; returns its entries. The caller holds the lock."""
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be a group: use 1 to 32 letters, digits, '.', '_' or "
                         "'-', the first a letter or digit")
    if not entries:
        raise UsageError(f"group {name}: name the disks to add, as MEMBER, MEMBER:DISK or "
                         "LABEL=VALUE")
    for entry in entries:
        disks_of(state.cluster, entry)
    groups = load(state)
    groups[name] = list(dict.fromkeys([*groups.get(name, []), *entries]))
    _save(state, groups)
    return groups[name]


def remove(state: State, name: str, entries: list[str]) -> list[str]:
    """Takes entries out of the group, or removes it: without entries, or with its last one.
    Returns those that are left. The caller holds the lock."""
    groups = load(state)
    had = find(groups, name)
    for entry in entries:
        if entry not in had:
            raise UsageError(f"group {name} has no {entry!r}: it has {', '.join(had)}")
    left = [entry for entry in had if entries and entry not in entries]
    if left:
        groups[name] = left
    else:
        del groups[name]
    _save(state, groups)
    return left


def find(groups: dict[str, list[str]], name: str) -> list[str]:
    if name not in groups:
        known = ", ".join(sorted(groups)) or "none; 'hotsnap group add' makes one"
        raise UsageError(f"there is no group {name!r}: there is {known}")
    return groups[name]


def resolve(state: State, name: str) -> dict[str, list[Disk]]:
    """Member to its disks in the group, by the cluster file of now. In place of a group's name,
    LABEL=VALUE[,LABEL=VALUE] stands for the disks with these labels."""
    if is_selector(name):
        return disks_of(state.cluster, name)
    found: dict[str, list[Disk]] = {}
    for entry in find(load(state), name):
        try:
            selected = disks_of(state.cluster, entry)
        except UsageError as error:
            raise UsageError(f"group {name}: {error}; 'hotsnap group rm {name} {entry}' takes it "
                             "out") from error
        for member, disks in selected.items():
            kept = found.setdefault(member, [])
            kept += [disk for disk in disks if disk not in kept]
    return found


def is_selector(entry: str) -> bool:
    return "=" in entry.partition(":")[0]  # what follows a colon is a disk's serial


def disks_of(cluster: Cluster, entry: str) -> dict[str, list[Disk]]:
    """Member to the disks that an entry stands for; never none."""
    if is_selector(entry):
        return _labeled(cluster, entry)
    name, colon, wanted = entry.partition(":")
    member = cluster.member(name)
    disks = _writable(member)
    if colon:
        disks = [disk for disk in disks if wanted in (disk.id, disk.serial)]
    if not disks:
        known = ", ".join(disk.id + (f" ({disk.serial})" if disk.serial else "")
                          for disk in _writable(member)) or "none"
        raise UsageError(f"member {name} has no disk {wanted!r} that it can write to: it has "
                         f"{known}" if colon else f"member {name} has no disk that it can write to")
    return {name: disks}


def _labeled(cluster: Cluster, selector: str) -> dict[str, list[Disk]]:
    wanted = set()
    for part in selector.split(","):
        label, _, value = part.partition("=")
        if not (NAME.fullmatch(label) and NAME.fullmatch(value)):
            raise UsageError(f"{selector!r} selects no disks: write LABEL=VALUE, or several with "
                             "commas between them, for disks that have all of these labels")
        wanted.add((label, value))
    found = {member.name: [disk for disk in _writable(member) if wanted <= labels(member, disk)]
             for member in cluster.members}
    if not any(found.values()):
        known = sorted({f"{label}={value}" for member in cluster.members
                        for disk in _writable(member) for label, value in labels(member, disk)})
        raise UsageError(f"no disk has the labels {selector}: {cluster.file} gives its disks "
                         f"{', '.join(known) or 'no labels'}")
    return {name: disks for name, disks in found.items() if disks}


def labels(member: Member, disk: Disk) -> set[tuple[str, str]]:
    """A disk has the labels of its member, unless it has its own with that name."""
    return set({**member.labels, **disk.labels}.items())


def _writable(member: Member) -> list[Disk]:
    return [disk for disk in member.disks if not disk.read_only]
