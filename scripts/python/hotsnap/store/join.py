# SPDX-License-Identifier: GPL-2.0-or-later
"""Joins layers of a store that no snapshot needs but as parts of others, so that chains stay short.

The lower layers of a run get what the upper ones hold: a commit costs as much as was sent, and the
large file at the bottom stays where it is. The plan is that of disks/layers.py, and so is the way
after a crash: the commit leaves the upper layers as they were, and these hide what it has written
below, so that every snapshot reads the same at every instant. merge.json says from before the first
step until after the last one that the sums of the lowest, and of those over the run, may be out of
date; and, once it is "committed", that nothing may be committed again.
"""

from __future__ import annotations

import os

from ..disks import journal, layers
from ..formats import qcow2, sums
from ..host import atomic
from ..qemu import binaries
from . import ledger, transfer
from .ledger import Shipped, StoreError

BATCH = 8  # layers that wait to be joined, since each time the lowest is read twice


def manifests(where: str) -> list[str]:
    folder = os.path.join(where, "snapshots")
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder))
            if name.endswith(".json") and not name.startswith(".")]


def _journal(where: str) -> str:
    return os.path.join(where, "merge.json")


def under_way(where: str) -> set[str]:
    """The files whose checksums may be out of date."""
    entry = journal.read(_journal(where))
    return {_at(where, name) for name in (entry.base, *entry.above)} if entry else set()


def _at(where: str, name: str) -> str:
    return os.path.join(where, "layers", name)


def tidy(where: str, image_tool: str, kept: int) -> None:
    """Joins what can be joined, once enough has come together."""
    folder = os.path.join(where, "layers")
    heads = {_at(where, disk.file) for path in manifests(where)
             for disk in ledger.read(path, Shipped).disks}
    for action in layers.plan(layers.scan([folder]), heads):
        if isinstance(action, layers.Merge) and len(action.removed) >= min(kept, BATCH):
            for path in (action.base, *action.removed):
                at = transfer.difference(path, sums.read(path + ".sums"))
                if at is not None:  # it must not get new checksums
                    raise StoreError(f"{path} is damaged at offset {at:#x}: begin a new store; "
                                     f"'hotsnap ship --verify {where}' lists all damage")
            journal.write(_journal(where), _relative(action), journal.BEGUN)
            _run(where, image_tool, _relative(action), journal.BEGUN)


def recover(where: str, image_tool: str) -> None:
    """Finishes what a command that was killed has begun."""
    entry = journal.read(_journal(where))
    if entry:
        _run(where, image_tool,
             layers.Merge(entry.base, tuple(entry.removed), tuple(entry.above)), entry.stage)


def _relative(action: layers.Merge) -> layers.Merge:
    """With names of files, since a store is mounted in other places at other times."""
    return layers.Merge(os.path.basename(action.base),
                        tuple(map(os.path.basename, action.removed)),
                        tuple(map(os.path.basename, action.above)))


def _run(where: str, image_tool: str, action: layers.Merge, stage: str) -> None:
    base = _at(where, action.base)
    if stage == journal.BEGUN:
        binaries.run_img(image_tool, "commit", "-q", "-d", "-f", "qcow2", "-b", base,
                         _at(where, action.top))
        atomic.sync_file(base)
        sums.write(base, base + ".sums")
        journal.write(_journal(where), action, journal.COMMITTED)
    for name in action.above:
        path = _at(where, name)
        if qcow2.backing_file(path) != base:
            binaries.run_img(image_tool, "rebase", "-u", "-f", "qcow2", "-F", "qcow2",
                             "-b", action.base, path)
            atomic.sync_file(path)
        sums.refresh(path, sums.read(path + ".sums"), path + ".sums", qcow2.cluster_size(path))
    _name_base(where, action)
    for name in action.removed:
        for path in (_at(where, name), _at(where, name) + ".sums"):
            if os.path.exists(path):
                os.unlink(path)
    atomic.sync_folder(os.path.join(where, "layers"))
    os.unlink(_journal(where))
    atomic.sync_folder(where)


def _name_base(where: str, action: layers.Merge) -> None:
    """Snapshots of the topmost layer are of the lowest now."""
    for file in manifests(where):
        one = ledger.read(file, Shipped)
        stale = [disk for disk in one.disks if disk.file in action.removed]
        for disk in stale:
            disk.file = action.base
        if stale:
            ledger.write(file, one)
