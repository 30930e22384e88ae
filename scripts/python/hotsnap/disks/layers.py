# SPDX-License-Identifier: GPL-2.0-or-later
"""Disk layers: qcow2 files that each hold what was written since the one below was frozen.

The layers of a disk form a tree. Its root lies over a golden image, which is never written; a
snapshot freezes the layer that the member writes to and puts a new one over it; a restore puts
one more over a frozen layer. A layer is needed when a bundle names it or a member writes to it,
or when a needed one lies over it.

A layer is known by its path with all links resolved: qcow2 headers, manifests and QEMU may spell it
otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..formats.qcow2 import backing_file
from ..host.atomic import UNFINISHED


def scan(folders: Iterable[str]) -> dict[str, str | None]:
    """Every layer in these folders, and what it lies over."""
    found: dict[str, str | None] = {}
    for folder in folders:
        if not os.path.isdir(folder):
            continue
        for entry in os.scandir(os.path.realpath(folder)):
            if entry.name.endswith(".qcow2") and entry.is_file(follow_symlinks=False):
                found[entry.path] = backing_file(entry.path)
    return found


def chain(known: Mapping[str, str | None], path: str) -> list[str]:
    """A layer and all below it that are known, topmost first; empty if it is not."""
    found = []
    layer: str | None = path
    while layer is not None and layer in known:
        found.append(layer)
        layer = known[layer]
    return found


def unfinished(folders: Iterable[str]) -> list[str]:
    """Files that became no layer, because a command or QEMU was killed while it made them."""
    return sorted(entry.path for folder in folders if os.path.isdir(folder)
                  for entry in os.scandir(folder) if entry.name.endswith(".qcow2" + UNFINISHED))


def topmost(layers: Mapping[str, str | None], path: str) -> str:
    """The layer that a member wrote to last; `path` is the one that was noted.

    A layer with another one over it was frozen, by a snapshot that was not noted because its
    command was killed or the host failed.
    """
    seen = {path}
    while True:
        above = [p for p, lower in layers.items() if lower == path and p not in seen]
        if not above:
            return path
        path = max(above, key=lambda p: (os.stat(p).st_mtime_ns, p))
        seen.add(path)


@dataclass(frozen=True)
class Delete:
    """A layer that nothing needs."""

    path: str


@dataclass(frozen=True)
class Merge:
    """A run of layers becomes one: what `removed` hold is committed into `base`, below them.

    `removed` is topmost first; all but the topmost, and `base`, are needed only by the layer over
    them. `above` are the layers that lie over the topmost and will lie over `base`.
    """

    base: str
    removed: tuple[str, ...]
    above: tuple[str, ...]

    @property
    def top(self) -> str:
        return self.removed[0]


def plan(layers: Mapping[str, str | None], needed: Iterable[str]) -> list[Delete | Merge]:
    """The actions after which each layer is needed, or has several others over it.

    `layers` maps each layer to what it lies over; a file that is not a key, such as a golden image,
    is never touched. With n needed layers at most 2n - 1 remain, so chains are bounded.
    """
    keep = set(needed)
    tree = dict(layers)
    actions: list[Delete | Merge] = []

    def above(path: str) -> list[str]:
        return sorted(p for p, lower in tree.items() if lower == path)

    while True:
        unneeded = sorted(p for p in tree if p not in keep and not above(p))
        if not unneeded:
            break
        for path in unneeded:
            del tree[path]
            actions.append(Delete(path))

    for base in sorted(tree):
        lower = tree.get(base)
        # Begin at the bottom of a run, so that the whole of it is one merge.
        if base not in tree or not _absorbs(base, tree, keep):
            continue
        if lower in tree and _absorbs(lower, tree, keep):
            continue
        run = [base]
        while _absorbs(run[-1], tree, keep):
            run.append(above(run[-1])[0])
        actions.append(Merge(base, tuple(reversed(run[1:])), tuple(above(run[-1]))))
    return actions


def _absorbs(path: str, tree: Mapping[str, str | None], keep: set[str]) -> bool:
    """Whether a layer is needed for nothing but the one layer over it."""
    return path not in keep and sum(1 for lower in tree.values() if lower == path) == 1
