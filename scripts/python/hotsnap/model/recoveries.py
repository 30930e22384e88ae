# SPDX-License-Identifier: GPL-2.0-or-later
"""Recoveries beside a cluster: clusters of their own, whose disks lie over layers of this one.

    recoveries/NAME/                the folder of such a cluster, laid out as any other (state.py)
    recoveries/NAME/cluster.toml    its cluster file, which any command takes
    recoveries/NAME/recovery.json   what it came from, and what it stands on

recovery.json is written before anything is made over a layer of this cluster, and is deleted last.
For as long as it is there, this cluster keeps the snapshot and the layers that it names, whether
the recovery runs or not. A folder without it has nothing that stands on anything.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from ..errors import HotsnapError, UsageError
from ..host.atomic import write_json
from ..record import Malformed, Record
from .tables import NAME

VERSION = 1


@dataclass
class Recovery(Record):
    version: int
    tag: str            # of the snapshot
    members: list[str]  # of the recovery
    layers: list[str]   # of the cluster that it came from; its disks lie over them
    complete: bool = False  # its members were started once, and it is not being removed


def folder(directory: str, name: str) -> str:
    """`directory`: of the cluster that the recovery came from."""
    return os.path.join(directory, "recoveries", name)


def cluster_file(directory: str, name: str) -> str:
    return os.path.join(folder(directory, name), "cluster.toml")


def record_file(path: str) -> str:
    """recovery.json of the recovery in folder `path`."""
    return os.path.join(path, "recovery.json")


def check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be the name of a recovery: use 1 to 32 letters, digits, "
                         "'.', '_' or '-', the first a letter or digit")


def read(path: str) -> Recovery | None:
    """The record of the recovery in folder `path`; None if there is none, Malformed if it is
    damaged."""
    file = record_file(path)
    try:
        with open(file, encoding="utf-8") as stream:
            found = Recovery.parse(json.load(stream), file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, Malformed) as error:
        raise Malformed(f"cannot read {file}: {error}; 'hotsnap recovery rm "
                        f"{os.path.basename(path)}' removes the recovery") from error
    if found.version != VERSION:
        raise HotsnapError(f"{file} has version {found.version}, this program knows {VERSION}: use "
                           "the program that wrote it")
    return found


def write(path: str, record: Recovery) -> None:
    write_json(record_file(path), record.dump())


def load(directory: str) -> dict[str, Recovery | None]:
    """All recoveries beside a cluster, by name; None for the rest of one that stands on nothing."""
    above = os.path.join(directory, "recoveries")
    if not os.path.isdir(above):
        return {}
    return {name: read(os.path.join(above, name)) for name in sorted(os.listdir(above))
            if os.path.isdir(os.path.join(above, name))}


def standing_on(directory: str) -> dict[str, list[str]]:
    """Tag of a snapshot to the recoveries that came from it."""
    found: dict[str, list[str]] = {}
    for name, record in load(directory).items():
        if record:
            found.setdefault(record.tag, []).append(name)
    return found


def find(directory: str, name: str) -> str:
    """The cluster file of a recovery; UsageError if there is none of that name."""
    path = folder(directory, name)
    if not NAME.fullmatch(name) or not os.path.isdir(path):
        known = ", ".join(load(directory)) or "none; 'hotsnap restore TAG --as NAME' makes one"
        raise UsageError(f"there is no recovery {name!r}: there is {known}")
    check_usable(path, read(path))
    return cluster_file(directory, name)


def check_own(directory: str) -> None:
    """Of any cluster's folder, in case that it is a recovery's: as check_usable."""
    record = read(directory)
    if record:
        check_usable(directory, record)


def check_usable(path: str, record: Recovery | None) -> None:
    """Refuses a recovery that was not completed: some of its disks may be missing, and a start
    would make new ones."""
    if record is None or not record.complete:
        name = os.path.basename(path)
        raise HotsnapError(f"recovery {name!r} was not completed: 'hotsnap recovery rm {name}' "
                           "removes it")
