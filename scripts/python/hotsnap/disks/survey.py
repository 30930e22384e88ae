# SPDX-License-Identifier: GPL-2.0-or-later
"""The layers of a cluster: which there are, which are needed, and whether that can be told now."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..errors import HotsnapError
from ..model import bundle, recoveries
from ..model.state import MemberState, State
from ..qemu.fleet import Fleet
from ..qemu.qmp import Qmp
from . import journal, layers

AT_REST = {"idle", "committed", "aborted", "in-doubt", "restored"}


class Busy(HotsnapError):
    """A snapshot, restore or merge is under way, and its end decides which layers are needed."""


class Moved(HotsnapError):
    """A member no longer uses the layers that it used when the plan was made; nothing was done."""


class Misplaced(HotsnapError):
    """The state does not fit the files, so that the layers that are needed are unknown."""


def loads_from(qmp: Qmp, path: str) -> bool:
    """Whether a member's memory still comes from the bundle in folder `path`."""
    load = qmp.execute("query-hotsnap").get("memory-load")
    return bool(load and load["state"] != "complete"
                and os.path.realpath(load["file"]).startswith(os.path.realpath(path) + os.sep))


def folders(state: State) -> list[str]:
    names = {member.name for member in state.cluster.members} | set(state.members)
    return [state.member_folder(name) for name in sorted(names)]


def scan(state: State, names: Iterable[str] | None = None) -> dict[str, str | None]:
    """The layers of these members, or of all. Layers that were merged into another one and wait to
    be deleted are left out, since their content may be out of date."""
    known = layers.scan(map(state.member_folder, names) if names else folders(state))
    entry = journal.read(state.journal)
    if entry and entry.stage == journal.COMMITTED:
        for path in entry.merge().removed:
            known.pop(path, None)
    return known


def settle(entry: MemberState, known: dict[str, str | None]) -> dict[str, str]:
    """Disk id to the file that a stopped member wrote to last.

    The entry may be out of date: a snapshot that was not noted puts a layer on top, and a snapshot
    that was aborted after its cut removes that layer again once it is committed.
    """
    found = {}
    for disk, path in entry.disks.items():
        candidates = [path, *entry.below.get(disk, [])]
        there = next((c for c in candidates if c in known), path)
        found[disk] = layers.topmost(known, there)
    return found


def check_rest(fleet: Fleet, name: str, qmp: Qmp) -> None:
    """Raises Busy if the layers of a running member are about to change."""
    if fleet.snapshots and qmp.execute("query-hotsnap")["phase"] not in AT_REST:
        raise Busy(f"member {name} is in a snapshot: wait until it is over")
    if fleet.rearranging(qmp):
        raise Busy(f"a job moves the disk layers of member {name}, perhaps to undo a snapshot "
                   "that was aborted: wait until it is over")


def held(state: State, known: dict[str, str | None]) -> set[str]:
    """The layers that recoveries stand on, all the way down: a recovery that runs has them open,
    and its own layers name the topmost. So none of them may change, go, or be merged into another
    one, even where one layer serves one other only."""
    keep: set[str] = set()
    try:
        standing = recoveries.load(state.directory)
    except HotsnapError as error:
        raise Misplaced(str(error)) from error
    for name, record in standing.items():
        for file in record.layers if record else ():
            layer = os.path.realpath(file)
            if layer not in known:
                raise Misplaced(f"recovery {name!r} stands on the disk layer {layer}, which is not "
                                f"among those in {state.directory}/members: put the folder back "
                                f"where it was, or run 'hotsnap recovery rm {name}'")
            keep.update(layers.chain(known, layer))
    return keep


def needed(state: State, fleet: Fleet, known: dict[str, str | None]) -> set[str]:
    """Layers that a bundle names, a member writes to, or a recovery stands on; all are in `known`.

    BundleError if a bundle is damaged, or names a layer that is missing: other layers may then be
    unknown as well, as when the cluster's folder was moved or copied.
    """
    keep = held(state, known)
    for kept in bundle.complete(state.bundles):
        for _, disk in kept.layers():
            path = os.path.realpath(disk.file)
            if path not in known:
                raise bundle.BundleError(
                    f"{kept.file('manifest.json')} names the disk layer {path}, which is not among "
                    f"those in {state.directory}/members: put the folder back where it was, or "
                    f"run 'hotsnap rm {kept.tag}'")
            keep.add(path)
    check_state(state, fleet, known)
    for name, entry in state.members.items():
        if fleet.running(name):
            with fleet.monitor(name) as qmp:
                check_rest(fleet, name, qmp)
                fleet.note_disks(name, qmp)
            for path in entry.disks.values():
                if path not in known:
                    raise Moved(f"member {name} writes to {path}, which is not a disk layer in "
                                f"{state.directory}/members: no layer is deleted or merged")
        else:
            entry.disks = settle(entry, known)
        keep.update(entry.disks.values())
    return keep


def check_state(state: State, fleet: Fleet, known: dict[str, str | None]) -> None:
    """Raises Misplaced if a file that a stopped member wrote to is not where it was."""
    if known and not os.path.exists(state.file):
        raise Misplaced(f"{state.file} is missing, and nothing else tells which disk "
                        "layers count: put it back, or begin anew with 'hotsnap restore' or "
                        "'hotsnap up --fresh'")
    named = set(fleet.names())
    for name, entry in list(state.members.items()):
        folder = os.path.realpath(state.member_folder(name))
        if name not in named and all(os.path.dirname(path) != folder for path in known):
            entry.disks = {}  # a former member whose disks were removed
        if fleet.running(name):
            continue
        for disk, path in settle(entry, known).items():
            if path not in known:
                raise Misplaced(
                    f"disk {disk} of member {name} is {path} in {state.file}, but there is no "
                    f"such disk layer in {folder}: put the cluster's folder back where it was; "
                    "or 'hotsnap up --fresh' starts over from the golden images, 'hotsnap "
                    "restore' from a snapshot")
